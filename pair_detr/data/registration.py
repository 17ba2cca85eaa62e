"""Data sets that a config brings along (``DATASETS.REGISTER``)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from pair_detr.data.coco import register_coco
from pair_detr.data.image_folder import register_image_folder
from pair_detr.data.image_labels import register_image_labels
from pair_detr.data.panoptic import register_coco_panoptic
from pair_detr.data.voc import register_voc

# Keys of an entry by its format: the required ones and the optional ones.
_KEYS = {
    "coco": ({"NAME", "FORMAT", "JSON", "IMAGES"}, {"NOVEL_CLASSES"}),
    "voc": ({"NAME", "FORMAT", "ROOT", "SPLIT"}, {"CLASSES", "YEAR"}),
    "coco_panoptic": ({"NAME", "FORMAT", "JSON", "SEGMENTS", "IMAGES"}, {"INSTANCES"}),
    "image_folder": ({"NAME", "FORMAT", "ROOT"}, {"CLASSES"}),
    "image_labels": ({"NAME", "FORMAT", "JSON", "IMAGES"}, set()),
}

# What this module has put into the catalogs, to tell a repetition from a conflict.
_registered: dict[str, dict[str, Any]] = {}


def register_from_config(cfg: CfgNode) -> None:
    """Registers the data sets listed in ``DATASETS.REGISTER``; doing it again changes nothing.

    An entry is one of (keys in parentheses may be left out, paths are relative to the working directory)

    - ``{NAME: my_train, FORMAT: coco, JSON: file, IMAGES: folder, (NOVEL_CLASSES: [a, b])}``
    - ``{NAME: my_train, FORMAT: coco_panoptic, JSON: file, SEGMENTS: folder of the PNG files, IMAGES: folder,
      (INSTANCES: JSON file of the things)}``, see :func:`pair_detr.data.panoptic.register_coco_panoptic`
    - ``{NAME: my_train, FORMAT: voc, ROOT: folder, SPLIT: train, (CLASSES: [a, b]), (YEAR: 2012)}``
    - ``{NAME: my_photos, FORMAT: image_folder, ROOT: folder, (CLASSES: file or {folder: class name})}``, see
      :func:`pair_detr.data.image_folder.register_image_folder`
    - ``{NAME: my_labels, FORMAT: image_labels, JSON: file, IMAGES: folder}``, see
      :func:`pair_detr.data.image_labels.register_image_labels`

    Raises:
        ValueError: an entry is malformed, or its name is taken by another data set.
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
    name = entry["NAME"]
    if name in _registered and name in DatasetCatalog:
        if _registered[name] != dict(entry):
            raise ValueError(
                f'{key}: "{name}" is already registered as {_registered[name]}; give this one another NAME.'
            )
        return
    if name in DatasetCatalog:
        raise ValueError(f'{key}: "{name}" is the name of a data set registered elsewhere; choose another NAME.')
    if data_format == "coco":
        json_file = _file(key, "JSON", entry["JSON"])
        novel = {"novel_classes": list(entry["NOVEL_CLASSES"])} if "NOVEL_CLASSES" in entry else {}
        register_coco(name, str(json_file), str(_folder(key, "IMAGES", entry["IMAGES"])), **novel)
    elif data_format == "coco_panoptic":
        json_file = _file(key, "JSON", entry["JSON"])
        folders = [_folder(key, field, entry[field]) for field in ("SEGMENTS", "IMAGES")]
        instances = _file(key, "INSTANCES", entry["INSTANCES"]) if "INSTANCES" in entry else None
        register_coco_panoptic(name, json_file, *folders, instances_json=instances)
    elif data_format == "image_labels":
        json_file = _file(key, "JSON", entry["JSON"])
        register_image_labels(name, json_file, _folder(key, "IMAGES", entry["IMAGES"]))
    elif data_format == "image_folder":
        classes = entry.get("CLASSES")
        if isinstance(classes, str):
            classes = _file(key, "CLASSES", classes)
        register_image_folder(name, _folder(key, "ROOT", entry["ROOT"]), classes)
    else:
        root = _folder(key, "ROOT", entry["ROOT"])
        _file(key, "SPLIT", root / "ImageSets" / "Main" / f"{entry['SPLIT']}.txt")
        register_voc(name, str(root), entry["SPLIT"], entry.get("CLASSES"), entry.get("YEAR", 2012))
    _registered[name] = dict(entry)


def _file(key: str, field: str, path: str | Path) -> Path:
    resolved = Path(path).expanduser()
    if not resolved.is_file():
        state = "is a folder, not a file" if resolved.exists() else "does not exist"
        raise FileNotFoundError(f"{key}: {field} names {resolved}, which {state}; correct the path.")
    return resolved


def _folder(key: str, field: str, path: str | Path) -> Path:
    resolved = Path(path).expanduser()
    if not resolved.is_dir():
        state = "is a file, not a folder" if resolved.exists() else "does not exist"
        raise FileNotFoundError(f"{key}: {field} names {resolved}, which {state}; correct the path.")
    return resolved
