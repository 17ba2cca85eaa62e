"""Datasets in the layout of YOLO: images, a text file with fractions of the image's size for each, and a data.yaml."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from pair_detr.data.datasets.yolo_labels import ROW, expected_file, find_labels, read_labels, unused_labels
from pair_detr.images.reading import find_images, image_sizes
from pair_detr.utils.messages import counted, join_some
from pair_detr.utils.text_files import read_text
from pair_detr.utils.yaml_files import read_yaml

logger = logging.getLogger(__name__)

# Keys of a YAML file. Some programs write "valid".
_SPLITS = ("train", "val", "valid", "validation", "test")


def register_yolo(name: str, root: str | Path, split: str = "train", **metadata: Any) -> None:
    """Registers data in YOLO's layout; nothing is read until the dataset is used.

    Args:
        root: folder that holds ``data.yaml``, or such a file, with ``names`` (a list, or a dict by class number) and,
            for each split, a folder of images, a text file that lists images, or a list of these. They are relative to
            ``path`` in the file, which is relative to its folder. Or a ``classes.txt`` with a name a line, as Label
            Studio writes it, next to the folder ``images``, which is "train".
        split: key in that file: train, val or test.
    """
    file = yolo_file(root)

    def load() -> list[dict[str, Any]]:
        content = _read_yaml(file)
        MetadataCatalog.get(name).thing_classes = _class_names(content, file)
        return load_yolo(file, split)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(image_root=str(file.parent), evaluator_type="coco", **metadata)


def yolo_file(root: str | Path) -> Path:
    """The YAML file of a dataset, given by that or by its folder."""
    root = Path(root).expanduser()
    return root / "data.yaml" if root.is_dir() else root


def load_yolo(root: str | Path, split: str) -> list[dict[str, Any]]:
    """Reads one split; of the images only the headers are read.

    The labels of ``.../images/x/1.jpg`` are in ``.../labels/x/1.txt``, or next to the image where no folder of its path
    is named ``images``. An image without labels, or without the file, is one without objects. Hidden images are left
    out of folders, see :func:`pair_detr.utils.file_search.search_files`, but not of lists.

    Returns:
        the images in Detectron2's standard format, sorted by their file: ``image_id`` is the path below the folder of
        the YAML file; boxes are in pixels of the image turned as its EXIF data say. Polygons become ``segmentation``,
        and their bounds the box.

    Raises:
        FileNotFoundError: the YAML file, the split's images or one of them are missing.
        OSError: images cannot be read.
        ValueError: the YAML file or labels are malformed, the message names the lines; or images share labels.
    """
    file = yolo_file(root)
    content = _read_yaml(file)
    num_classes = len(_class_names(content, file))
    # What the paths in the file are relative to.
    base = file.parent / str(content.get("path") or "")
    sources = _sources_of(content, file, split, base)
    by_id: dict[str, Path] = {}
    repeated: list[str] = []
    for image in sorted(image for source in sources for image in _images_of(source, file, split, base)):
        # Lists and folders may name it several times, and in several ways.
        image_id = Path(os.path.relpath(image, file.parent)).as_posix()
        if by_id.setdefault(image_id, image) is not image:
            repeated.append(image_id)
    if repeated:
        logger.warning(
            '%s: "%s" names %s more than once; each is used once: %s.',
            file,
            split,
            counted(len(set(repeated)), "image"),
            join_some(list(dict.fromkeys(repeated))),
        )
    images = list(by_id.values())
    if missing := [str(image) for image in images if not image.is_file()]:
        raise FileNotFoundError(f'{file}: images of "{split}" do not exist: {join_some(missing)}. Correct the list')
    sizes = image_sizes(images)
    if unreadable := [str(image) for image, size in zip(images, sizes, strict=True) if size is None]:
        raise OSError(f"{join_some(unreadable)} cannot be read as images; replace or remove them with their labels")
    labels = find_labels(images)
    _warn_of_labels(file, split, sources, images, labels)
    faults: list[str] = []
    records = []
    for (image_id, image), (width, height), label_file in zip(by_id.items(), sizes, labels, strict=True):
        record = {"file_name": str(image), "image_id": image_id, "width": width, "height": height, "annotations": []}
        if label_file is not None:
            record["annotations"], wrong = read_labels(label_file, num_classes, width, height)
            faults.extend(wrong)
        records.append(record)
    if faults:
        raise ValueError(f"{join_some(faults)}. Correct the labels: a line is {ROW}")
    _require_labels_of_one_image(records, labels)
    return records


def split_exists(file: Path, content: Mapping[str, Any], split: str) -> bool:
    """Whether a key of a YAML file names a split, and files that exist."""
    if split not in _SPLITS or not content[split]:
        return False
    try:
        return bool(_sources_of(content, file, split, file.parent / str(content.get("path") or "")))
    except (FileNotFoundError, ValueError) as error:
        logger.warning("Left out: %s", error)
        return False


def other_splits(root: str | Path, split: str) -> list[str]:
    """The splits of a YAML file besides one, for a message; none if it cannot be read."""
    try:
        return [key for key in _read_yaml(yolo_file(root)) if key in _SPLITS and key != split]
    except (OSError, ValueError):
        return []


def _read_yaml(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".txt":
        return {"names": list(filter(None, map(str.strip, read_text(file).splitlines()))), "train": "images"}
    content = read_yaml(file, plain=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds no keys; it needs names, and a folder of images for train and val")
    return content


def _class_names(content: Mapping[str, Any], file: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, Mapping):
        # Some tools write the numbers in quotes.
        by_number = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        if set(by_number) != set(range(len(names))):
            raise ValueError(f"{file}: names has the numbers {list(names)}; number the classes 0, 1, 2, ...")
        names = [by_number[index] for index in range(len(names))]
    if not names or not isinstance(names, list):
        raise ValueError(f"{file} has no names; write a list of the classes there, in the order of their numbers")
    if other := [name for name in names if isinstance(name, bool) or not isinstance(name, (str, int, float))]:
        raise ValueError(f'{file}: names has {join_some(list(map(repr, other)))}; put these in quotes: "no"')
    names = [str(name).strip() for name in names]
    if "" in names:
        raise ValueError(f"{file}: class {names.index('')} in names has no name; give it one")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{file}: names has {join_some(twice)} more than once; give every class a name of its own")
    if content.get("nc", len(names)) != len(names):
        raise ValueError(
            f"{file}: nc is {content['nc']}, but names has {counted(len(names), 'class', 'classes')}; correct one of "
            "them"
        )
    return names


def _sources_of(content: Mapping[str, Any], file: Path, split: str, base: Path) -> list[Path]:
    """Folders of images, and lists of images."""
    if not content.get(split):
        raise ValueError(f'{file} has no "{split}"; its keys are {list(content)}')
    sources = []
    for entry in content[split] if isinstance(content[split], list) else [content[split]]:
        if not isinstance(entry, str):
            raise ValueError(f"{file}: {split} has {entry!r}, which is no path; correct it")
        # Exports of annotation tools have ../train/images for the folder train next to the file.
        candidates = [
            candidate
            for name in _spellings(entry)
            for candidate in (base / name, file.parent / name, file.parent / name.removeprefix("../"))
        ]
        source = next((candidate for candidate in candidates if candidate.exists()), None)
        if source is None:
            raise FileNotFoundError(f"{file}: {split} names {base / entry}, which does not exist; correct the path")
        sources.append(source)
    return sources


def _images_of(source: Path, file: Path, split: str, base: Path) -> list[Path]:
    if source.is_dir():
        images = find_images(source)
    else:
        lines = filter(None, map(str.strip, read_text(source).splitlines()))
        images = [_listed_image(line, (source.parent, base)) for line in lines]
    if not images:
        raise FileNotFoundError(f"{file}: {split} names {source}, which has no images; correct the path")
    return images


def _listed_image(line: str, folders: Sequence[Path]) -> Path:
    names = _spellings(line)
    candidates = [folder / name for name in names for folder in folders]
    return next((candidate for candidate in candidates if candidate.is_file()), folders[0] / names[-1])


def _spellings(path: str) -> list[str]:
    """A path as it is written and, with backslashes, as Windows resolves it: "x\\..\\y" is y, whatever x is."""
    return [path, os.path.normpath(path.replace("\\", "/"))] if "\\" in path else [path]


def _warn_of_labels(
    file: Path, split: str, sources: Sequence[Path], images: Sequence[Path], labels: Sequence[Path | None]
) -> None:
    if not any(labels):
        logger.warning(
            '%s: none of the %s of "%s" has a file of labels, so all count as images without objects. The first '
            "is looked for at %s.",
            file,
            counted(len(images), "image"),
            split,
            expected_file(images[0]),
        )
    used = set(filter(None, labels))
    # A list may well leave out images that have labels.
    unused = [path for source in sources if source.is_dir() for path in unused_labels(source, used)]
    if unused:
        logger.warning(
            '%s: "%s" has %s without an image, whose objects are lost: %s. Restore the images, or give '
            "both the same name but for its ending.",
            file,
            split,
            counted(len(unused), "file of labels", "files of labels"),
            join_some(list(map(str, unused))),
        )


def _require_labels_of_one_image(records: Sequence[dict[str, Any]], labels: Sequence[Path | None]) -> None:
    images: dict[Path, list[str]] = {}
    for record, label_file in zip(records, labels, strict=True):
        if record["annotations"]:
            images.setdefault(label_file, []).append(record["file_name"])
    if shared := [f"{' and '.join(names)} have {label_file}" for label_file, names in images.items() if len(names) > 1]:
        raise ValueError(
            f"several images share labels: {join_some(shared)}. Remove all but the image that was labeled, or give "
            "each a name of its own, and its labels"
        )
