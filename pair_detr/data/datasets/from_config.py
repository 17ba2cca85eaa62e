"""Datasets that a config brings along (``DATASETS.REGISTER``)."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from pair_detr.data.datasets.coco import register_coco
from pair_detr.data.datasets.coco_panoptic import register_coco_panoptic
from pair_detr.data.datasets.image_folder import register_image_folder
from pair_detr.data.datasets.image_label_json import register_image_labels
from pair_detr.data.datasets.layouts import as_yaml, find_splits
from pair_detr.data.datasets.pascal_voc import register_voc
from pair_detr.data.datasets.split import PARTS, register_split
from pair_detr.data.datasets.yolo import other_splits, register_yolo, yolo_file
from pair_detr.utils.messages import join_some, log_once

logger = logging.getLogger(__name__)

# Keys of an entry by its format: the required ones and the optional ones.
_KEYS = {
    "auto": ({"NAME", "FORMAT", "ROOT"}, {"SPLIT"}),
    "coco": ({"NAME", "FORMAT", "JSON", "IMAGES"}, {"NOVEL_CLASSES", "SPLIT"}),
    "voc": ({"NAME", "FORMAT", "ROOT"}, {"SPLIT", "CLASSES", "YEAR"}),
    "coco_panoptic": ({"NAME", "FORMAT", "JSON", "SEGMENTS", "IMAGES"}, {"INSTANCES"}),
    "yolo": ({"NAME", "FORMAT", "ROOT", "SPLIT"}, set()),
    "image_folder": ({"NAME", "FORMAT", "ROOT"}, {"CLASSES", "SPLIT"}),
    "image_labels": ({"NAME", "FORMAT", "JSON", "IMAGES"}, {"SPLIT"}),
}
# Formats that have splits of their own, by name, besides those drawn at random.
_NAMED_SPLITS = ("voc", "yolo")
# Keys whose values are text in any format; the name of a split is checked with the numbers that may stand in its place.
_TEXTS = ("NAME", "JSON", "IMAGES", "SEGMENTS", "INSTANCES", "ROOT")
_RANDOM_SPLIT = "{VAL: 0.2, SEED: 0}"
_REMEDY = (
    "correct the path. The first lines of a config of this package say where its files come from and how to make them."
)

# What entries of FORMAT auto stand for, by their text: finding out reads files.
_expanded: dict[str, list[dict[str, Any]]] = {}
# What this module has put into the catalogs, to tell a repetition from a conflict.
_registered: dict[str, dict[str, Any]] = {}


def register_from_config(cfg: CfgNode) -> None:
    """Registers the datasets listed in ``DATASETS.REGISTER``; doing it again changes nothing.

    An entry is one of (keys in parentheses may be left out, paths are relative to the working directory)

    - ``{NAME: my_train, FORMAT: coco, JSON: file, IMAGES: folder, (NOVEL_CLASSES: [a, b])}``
    - ``{NAME: my_train, FORMAT: coco_panoptic, JSON: file, SEGMENTS: folder of the PNG files, IMAGES: folder,
      (INSTANCES: JSON file of the things)}``, see :func:`pair_detr.data.datasets.coco_panoptic.register_coco_panoptic`
    - ``{NAME: my, FORMAT: auto, ROOT: folder, (SPLIT: {VAL: 0.2, SEED: 0})}``: ``my_train``, ``my_val`` and ``my_test``
      of whatever format is found below the folder, see :func:`pair_detr.data.datasets.layouts.find_splits`; ``SPLIT``
      counts where the data are not divided
    - ``{NAME: my_train, FORMAT: voc, ROOT: folder, (SPLIT: train), (CLASSES: [a, b]), (YEAR: 2012)}``
    - ``{NAME: my_train, FORMAT: yolo, ROOT: folder or data.yaml, SPLIT: train}``, see
      :func:`pair_detr.data.datasets.yolo.register_yolo`
    - ``{NAME: my_photos, FORMAT: image_folder, ROOT: folder, (CLASSES: file or {folder: class name})}``, see
      :func:`pair_detr.data.datasets.image_folder.register_image_folder`
    - ``{NAME: my_labels, FORMAT: image_labels, JSON: file, IMAGES: folder}``, see
      :func:`pair_detr.data.datasets.image_label_json.register_image_labels`

    Where there is but one set, ``SPLIT: {VAL: 0.2, (SEED: 0)}`` in any of them but coco_panoptic registers
    ``<NAME>_train`` and ``<NAME>_val`` out of it, in addition to NAME itself; see
    :func:`pair_detr.data.datasets.split.register_split`. For voc it is made of all images with annotations, for yolo of
    "train" in data.yaml, or of the named split that a further key, ``OF``, says.

    Raises:
        ValueError: an entry is malformed, or its name is taken by another dataset.
        FileNotFoundError: a file or folder does not exist, or is the other of the two.
    """
    for position, entry in enumerate(cfg.DATASETS.REGISTER):
        _register(f"DATASETS.REGISTER[{position}]", entry)


def _register(key: str, entry: Mapping[str, Any]) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{key} is {entry!r}; write {{NAME: ..., FORMAT: {' or '.join(_KEYS)}, ...}}.")
    data_format = entry.get("FORMAT")
    if data_format not in _KEYS:
        raise ValueError(f"{key}: FORMAT is {data_format!r}; it must be one of {', '.join(_KEYS)}.")
    required, optional = _KEYS[data_format]
    if missing := sorted(required - entry.keys()):
        raise ValueError(f"{key}: {', '.join(missing)} is missing; FORMAT {data_format} needs {sorted(required)}.")
    if unknown := sorted(entry.keys() - required - optional):
        raise ValueError(
            f"{key}: FORMAT {data_format} has no {', '.join(unknown)}; its keys are {sorted(required | optional)}."
        )
    for field in _TEXTS:
        if field in entry and not (isinstance(entry[field], str) and entry[field]):
            raise ValueError(f"{key}: {field} is {entry[field]!r}; it must be text, in quotes if need be.")
    split = _random_split(key, entry)
    name = entry["NAME"]
    if data_format == "auto":
        for found in expand(key, entry):
            _register(key, found)
        return
    if name in _registered and name in DatasetCatalog:
        if _registered[name] != dict(entry):
            raise ValueError(
                f'{key}: "{name}" is already registered as {_registered[name]}; give this one another NAME.'
            )
        return
    for taken in (name, *(f"{name}_{part}" for part in PARTS if split)):
        if taken in DatasetCatalog:
            raise ValueError(f'{key}: "{taken}" is the name of a dataset registered elsewhere; choose another NAME.')
    _REGISTER[data_format](key, name, entry)
    if split:
        register_split(name, split["VAL"], split.get("SEED", 0))
    _registered[name] = dict(entry)


def expand(key: str, entry: Mapping[str, Any], only: str = "") -> list[dict[str, Any]]:
    """The entries that one of FORMAT auto stands for; they are logged.

    Args:
        key: of the entry, for messages.
        entry: with NAME, ROOT and perhaps SPLIT.
        only: the format to look for, see :func:`pair_detr.data.datasets.layouts.find_splits`.

    Raises:
        FileNotFoundError, ValueError: as of :func:`pair_detr.data.datasets.layouts.find_splits`.
    """
    name, root = entry["NAME"], entry["ROOT"]
    if found := _expanded.get(f"{entry!r} {only}"):
        return found
    try:
        splits = find_splits(root, only)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{key}: {error}") from error
    if len(splits) == 1 and (lone := next(iter(splits))) in ("val", "test"):
        raise ValueError(
            f"{key}: {root} has a set for {lone} alone: add one for training, or rename it if it is to be divided."
        )
    draw = dict(entry.get("SPLIT") or {"VAL": 0.2, "SEED": 0})
    if len(splits) > 1:
        found = [{"NAME": f"{name}_{split}", **of_split} for split, of_split in splits.items()]
    else:
        (whole,) = splits.values()
        if isinstance(whole.get("SPLIT"), str):
            draw["OF"] = whole["SPLIT"]
        found = [{"NAME": name, **whole, "SPLIT": draw}]
    log_once(logger, logging.INFO, f"{root} has these data, as entries of DATASETS.REGISTER:\n{as_yaml(found)}")
    _expanded[f"{entry!r} {only}"] = found
    return found


def _random_split(key: str, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """SPLIT of an entry where it is to be drawn at random, checked."""
    data_format, split = entry["FORMAT"], entry.get("SPLIT")
    named = data_format in _NAMED_SPLITS
    if split is None or (named and isinstance(split, str) and split):
        return None
    options = {"SEED", "OF"} if named else {"SEED"}
    if not isinstance(split, Mapping) or "VAL" not in split or split.keys() - {"VAL"} - options:
        expected = f"the name of a split, or {_RANDOM_SPLIT}" if named else _RANDOM_SPLIT
        raise ValueError(
            f"{key}: SPLIT is {split!r}; for FORMAT {data_format} it is {expected} (keys: VAL, "
            f"{', '.join(sorted(options))})."
        )
    if not isinstance(split["VAL"], (int, float)) or not 0 < split["VAL"] < 1:
        raise ValueError(f"{key}: SPLIT has VAL {split['VAL']!r}; it must be between 0 and 1, as 0.2 for every fifth.")
    if not isinstance(split.get("SEED", 0), int):
        raise ValueError(f"{key}: SPLIT has SEED {split['SEED']!r}; it must be a whole number.")
    return split


def _named_split(entry: Mapping[str, Any], default: str | None) -> str | None:
    """The split of the files that an entry is about, as a whole."""
    split = entry.get("SPLIT", {})
    return split if isinstance(split, str) else split.get("OF", default)


def _register_coco(key: str, name: str, entry: Mapping[str, Any]) -> None:
    json_file = _file(key, "JSON", entry["JSON"])
    novel = {"novel_classes": _names(key, "NOVEL_CLASSES", entry["NOVEL_CLASSES"])} if "NOVEL_CLASSES" in entry else {}
    register_coco(name, str(json_file), str(_folder(key, "IMAGES", entry["IMAGES"])), **novel)


def _register_coco_panoptic(key: str, name: str, entry: Mapping[str, Any]) -> None:
    json_file = _file(key, "JSON", entry["JSON"])
    folders = [_folder(key, field, entry[field]) for field in ("SEGMENTS", "IMAGES")]
    instances = _file(key, "INSTANCES", entry["INSTANCES"]) if "INSTANCES" in entry else None
    register_coco_panoptic(name, json_file, *folders, instances_json=instances)


def _register_voc(key: str, name: str, entry: Mapping[str, Any]) -> None:
    root = _folder(key, "ROOT", entry["ROOT"])
    split = _named_split(entry, default=None)
    if split is not None:
        _file(key, "SPLIT", root / "ImageSets" / "Main" / f"{split}.txt")
    classes = _names(key, "CLASSES", entry["CLASSES"]) if "CLASSES" in entry else None
    register_voc(name, str(root), split, classes, entry.get("YEAR", 2012))


def _register_yolo(key: str, name: str, entry: Mapping[str, Any]) -> None:
    file = _file(key, "ROOT", yolo_file(entry["ROOT"]))
    split = _named_split(entry, default="train")
    if isinstance(entry["SPLIT"], Mapping) and (others := other_splits(file, split)):
        message = (
            f'{key}: "{name}" is divided out of {split} of {file}; its {join_some(others)} '
            f"{'is' if len(others) == 1 else 'are'} left out. To use the splits of the file, name them."
        )
        log_once(logger, logging.WARNING, message)
    register_yolo(name, file, split)


def _register_image_folder(key: str, name: str, entry: Mapping[str, Any]) -> None:
    classes = entry.get("CLASSES")
    if isinstance(classes, str):
        classes = _file(key, "CLASSES", classes)
    root = _folder(key, "ROOT", entry["ROOT"])
    try:
        register_image_folder(name, root, classes)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _register_image_labels(key: str, name: str, entry: Mapping[str, Any]) -> None:
    json_file = _file(key, "JSON", entry["JSON"])
    register_image_labels(name, json_file, _folder(key, "IMAGES", entry["IMAGES"]))


def _names(key: str, field: str, value: Any) -> list[str]:
    # YAML reads unquoted names such as "no" and "12" as other types, and a single name has letters to iterate over.
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError(f'{key}: {field} is {value!r}; it must be a list of names, as [cat, "no entry", "12"].')
    return list(value)


def _file(key: str, field: str, path: str | Path, is_folder: bool = False) -> Path:
    resolved = Path(path).expanduser()
    if not (resolved.is_dir() if is_folder else resolved.is_file()):
        other = "is a file, not a folder" if is_folder else "is a folder, not a file"
        state = other if resolved.exists() else "does not exist"
        raise FileNotFoundError(f"{key}: {field} names {resolved}, which {state}; {_REMEDY}")
    return resolved


_folder = partial(_file, is_folder=True)


_REGISTER: dict[str, Callable[[str, str, Mapping[str, Any]], None]] = {
    "coco": _register_coco,
    "coco_panoptic": _register_coco_panoptic,
    "voc": _register_voc,
    "yolo": _register_yolo,
    "image_folder": _register_image_folder,
    "image_labels": _register_image_labels,
}
