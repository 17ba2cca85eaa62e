"""Data sets that a config brings along (``DATASETS.REGISTER``)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from pair_detr.data.coco import register_coco
from pair_detr.data.voc import register_voc

# Keys of an entry by its format: the required ones and the optional ones.
_KEYS = {
    "coco": ({"NAME", "FORMAT", "JSON", "IMAGES"}, set()),
    "voc": ({"NAME", "FORMAT", "ROOT", "SPLIT"}, {"CLASSES", "YEAR"}),
}

# What this module has put into the catalogs, to tell a repetition from a conflict.
_registered: dict[str, dict[str, Any]] = {}


def register_from_config(cfg: CfgNode) -> None:
    """Registers the data sets listed in ``DATASETS.REGISTER``; doing it again changes nothing.

    An entry is ``{NAME: my_train, FORMAT: coco, JSON: file, IMAGES: folder}`` or ``{NAME: my_train, FORMAT: voc, ROOT:
    folder, SPLIT: train, CLASSES: [a, b], YEAR: 2012}``, of which CLASSES and YEAR may be left out. Paths are relative
    to the working directory.

    Raises:
        ValueError: an entry is malformed, or its name is taken by another data set.
        FileNotFoundError: a file or folder does not exist, or is the other of the two.
    """
    for position, entry in enumerate(cfg.DATASETS.REGISTER):
        _register(f"DATASETS.REGISTER[{position}]", entry)


def _register(key: str, entry: Mapping[str, Any]) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{key} is {entry!r}; write {{NAME: ..., FORMAT: coco or voc, ...}}.")
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
        register_coco(name, str(json_file), str(_folder(key, "IMAGES", entry["IMAGES"])))
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
