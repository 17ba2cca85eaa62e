"""Which format the data below a folder have, and which files are of training, validation and test."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pair_detr.data.datasets.coco_layout import find_coco
from pair_detr.data.datasets.layout_names import ALL, Splits, group_by_split, split_named_by
from pair_detr.data.datasets.pascal_voc import infer_class_names
from pair_detr.data.datasets.yolo import split_exists
from pair_detr.images.reading import IMAGE_SUFFIXES
from pair_detr.utils.file_search import is_hidden
from pair_detr.utils.messages import join_some
from pair_detr.utils.yaml_files import read_yaml

logger = logging.getLogger(__name__)

_LISTS = Path("ImageSets", "Main")
# Label Studio's list of classes, next to the folders images and labels.
_CLASS_LIST = "classes.txt"
_LOOKED_FOR = (
    "JSON files in COCO's format; a YAML file with names and train, or classes.txt, and labels in YOLO's; .xml files "
    "in Pascal VOC's, in Annotations or next to their images; a folder of images for each class"
)


def find_splits(root: str | Path, only: str = "") -> Splits:
    """Entries for DATASETS.REGISTER, without their names, of the data below a folder.

    Args:
        root: the folder, as annotation programs write it, or as it was unpacked.
        only: the format to look for, one of :data:`FORMATS`; "" looks for all.

    Returns:
        an entry for each of "train", "val" and "test" that there is; or one under :data:`ALL` where the data are not
        divided.

    Raises:
        FileNotFoundError: there is no such folder, or nothing known in it; the message says what is.
        ValueError: there are data of several formats, or several files for one split; the message lists them.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        state = "is a file; name its folder" if root.exists() else "does not exist; correct the path"
        raise FileNotFoundError(f"{root} {state}")
    # Programs pack the data into a folder of their own; one of a test set alone says what they are.
    while len(inner := _visible(root)) == 1 and inner[0].is_dir() and split_named_by(inner[0].name) in (None, "train"):
        root = inner[0]
    wanted = {only: _FORMATS[only]} if only else _FORMATS
    found = {name: splits for name, find in wanted.items() if (splits := find(root))}
    if not found and not only:
        found = {"image_folder": splits} if (splits := _find_image_folders(root)) else {}
    if not found:
        names = [path.name + ("/" if path.is_dir() else "") for path in _visible(root)]
        raise FileNotFoundError(
            f"{root} has no data in {f'the format {only}' if only else 'a known format'}: it has "
            f"{join_some(names) if names else 'no files'}. Looked for: "
            f"{_LOOKED_FOR}."
        )
    if len(found) > 1:
        entries = [entry for splits in found.values() for entry in splits.values()]
        raise ValueError(
            f"{root} has data in several formats: {', '.join(found)}. Choose one with --format, or register those that "
            f"are meant, each with a NAME:\n{as_yaml(entries)}"
        )
    return next(iter(found.values()))


def as_yaml(entries: Sequence[Mapping[str, Any]]) -> str:
    """Entries of DATASETS.REGISTER, a line each, as they are written in a config."""
    lines = (
        yaml.safe_dump(dict(entry), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
        for entry in entries
    )
    return "\n".join(f"- {line.strip()}" for line in lines)


def _find_yolo(root: Path) -> Splits:
    files = [path for path in _visible(root) if path.suffix.lower() in (".yaml", ".yml") and path.is_file()]
    contents = {file: content for file in files if isinstance(content := _read(file), Mapping) and "names" in content}
    found = {
        file: group_by_split((key, {"FORMAT": "yolo", "ROOT": str(file), "SPLIT": key}) for key in keys)
        for file, content in contents.items()
        if (keys := [key for key in content if isinstance(key, str) and split_exists(file, content, key)])
    }
    if len(found) > 1:
        raise ValueError(f"{root} has several YAML files of YOLO's: {join_some(list(map(str, found)))}. Name one.")
    if found:
        return next(iter(found.values()))
    classes = root / _CLASS_LIST
    if classes.is_file() and (root / "labels").is_dir() and (root / "images").is_dir():
        return group_by_split([("train", {"FORMAT": "yolo", "ROOT": str(classes), "SPLIT": "train"})])
    return {}


def _read(file: Path) -> Any:
    try:
        return read_yaml(file, plain=True)
    except ValueError as error:
        logger.warning("Left out: %s", error)
        return None


def _find_voc(root: Path) -> Splits:
    if (root / "Annotations").is_dir():
        lists = {file.stem: file for file in sorted((root / _LISTS).glob("*.txt")) if not is_hidden(file.name)}
        chosen = [name for name in ("train", "val", "test") if name in lists]
        if "train" not in lists and "trainval" in lists:
            chosen.insert(0, "trainval")
        entry = {"FORMAT": "voc", "ROOT": str(root)}
        return group_by_split((name, {**entry, "SPLIT": name}) for name in chosen) or {ALL: entry}
    if any(_of_kind(root, {".xml"})):
        return {ALL: {"FORMAT": "voc", "ROOT": str(root)}}
    folders = [path for path in _visible(root) if path.is_dir()]
    voc = [folder for folder in folders if any(_of_kind(folder, {".xml"}))]
    # No list says what all splits have.
    classes = sorted({name for folder in voc for name in infer_class_names(str(folder))})
    return group_by_split((folder.name, {"FORMAT": "voc", "ROOT": str(folder), "CLASSES": classes}) for folder in voc)


def _find_image_folders(root: Path) -> Splits:
    folders = [path for path in _visible(root) if path.is_dir()]
    splits = group_by_split(
        (folder.name, {"FORMAT": "image_folder", "ROOT": str(folder)}) for folder in folders if _has_classes(folder)
    )
    if "train" in splits:
        return splits
    return {ALL: {"FORMAT": "image_folder", "ROOT": str(root)}} if _has_classes(root) else {}


def _has_classes(root: Path) -> bool:
    """Whether it has two folders at least, all with images in them."""
    folders = [path for path in _visible(root) if path.is_dir()]
    return len(folders) > 1 and all(any(_of_kind(folder, IMAGE_SUFFIXES)) for folder in folders)


def _of_kind(folder: Path, suffixes: frozenset[str] | set[str]) -> Iterator[Path]:
    return (path for path in _visible(folder) if path.suffix.lower() in suffixes and path.is_file())


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


_FORMATS: dict[str, Callable[[Path], Splits]] = {"coco": find_coco, "yolo": _find_yolo, "voc": _find_voc}
# Formats with boxes.
FORMATS = tuple(_FORMATS)
