"""Data sets in the layout of YOLO: images, a text file with fractions of the image's size for each, and a data.yaml."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from pair_detr.data.image_files import IMAGE_SUFFIXES, image_sizes
from pair_detr.data.messages import join_some
from pair_detr.data.text_files import read_text

logger = logging.getLogger(__name__)

# Rounding takes coordinates beyond the edges; pixels in place of fractions go far beyond.
_TOLERANCE = 0.01
_ROW = (
    "class x_center y_center width height, or class x1 y1 x2 y2 x3 y3 ... of a polygon, all as fractions of the image"
)


def register_yolo(name: str, root: str | Path, split: str = "train", **metadata: Any) -> None:
    """Registers data in YOLO's layout; nothing is read until the data set is used.

    Args:
        name: name in the catalogs.
        root: folder that holds ``data.yaml``, or such a file, with ``names`` (a list, or a dict by class number) and,
            for each split, a folder of images, a text file that lists images, or a list of these. They are relative to
            ``path`` in the file, which is relative to its folder.
        split: key in that file: train, val or test.
        metadata: further entries of the metadata.
    """
    file = yolo_file(root)

    def load() -> list[dict[str, Any]]:
        content = _read_yaml(file)
        MetadataCatalog.get(name).thing_classes = _class_names(content, file)
        return load_yolo(file, split)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(image_root=str(file.parent), evaluator_type="coco", **metadata)


def yolo_file(root: str | Path) -> Path:
    """The YAML file of a data set, given by that or by its folder."""
    root = Path(root).expanduser()
    return root / "data.yaml" if root.is_dir() else root


def load_yolo(root: str | Path, split: str) -> list[dict[str, Any]]:
    """Reads one split; of the images only the headers are read.

    The labels of ``.../images/x/1.jpg`` are in ``.../labels/x/1.txt``, or beside the image where no folder of its path
    is named ``images``. An image without labels, or without the file, is one without objects.

    Returns:
        the images in Detectron2's standard format, sorted by their file: ``image_id`` is the path below the folder of
        the YAML file; boxes are in pixels of the image turned as its EXIF data say. Polygons become ``segmentation``,
        and their bounds the box.

    Raises:
        FileNotFoundError: the YAML file, the split's images or one of them are missing.
        OSError: images cannot be read.
        ValueError: the YAML file or labels are malformed; the message names the lines.
    """
    file = yolo_file(root)
    content = _read_yaml(file)
    num_classes = len(_class_names(content, file))
    images = sorted(set(_images_of(content, file, split)))
    if missing := [str(image) for image in images if not image.is_file()]:
        raise FileNotFoundError(f'{file}: images of "{split}" do not exist: {join_some(missing)}. Correct the list')
    sizes = image_sizes(images)
    if unreadable := [str(image) for image, size in zip(images, sizes, strict=True) if size is None]:
        raise OSError(f"{join_some(unreadable)} cannot be read as images; replace or remove them with their labels")
    if not any(_label_file(image).is_file() for image in images):
        logger.warning(
            '%s: none of the %d images of "%s" has a file of labels, so all count as images without objects. The first '
            "is looked for at %s.",
            file,
            len(images),
            split,
            _label_file(images[0]),
        )
    faults: list[str] = []
    records = []
    for image, (width, height) in zip(images, sizes, strict=True):
        labels = _label_file(image)
        records.append(
            {
                "file_name": str(image),
                "image_id": Path(os.path.relpath(image, file.parent)).as_posix(),
                "width": width,
                "height": height,
                "annotations": _read_labels(labels, num_classes, width, height, faults) if labels.is_file() else [],
            }
        )
    if faults:
        raise ValueError(f"{join_some(faults)}. Correct the labels: a line is {_ROW}")
    return records


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML ({error}); correct the file") from error
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
    names = [str(name) for name in names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{file}: names has {join_some(twice)} more than once; give every class a name of its own")
    if content.get("nc", len(names)) != len(names):
        raise ValueError(f"{file}: nc is {content['nc']}, but names has {len(names)} classes; correct one of them")
    return names


def _images_of(content: Mapping[str, Any], file: Path, split: str) -> Iterator[Path]:
    if not content.get(split):
        raise ValueError(f'{file} has no "{split}"; its keys are {list(content)}')
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    base = file.parent / str(content.get("path", ""))
    for entry in entries:
        if not isinstance(entry, str):
            raise ValueError(f"{file}: {split} has {entry!r}, which is no path; correct it")
        # Exports of annotation tools have ../train/images for the folder train beside the file.
        candidates = [base / entry, file.parent / entry, file.parent / entry.removeprefix("../")]
        source = next((candidate for candidate in candidates if candidate.exists()), None)
        if source is None:
            raise FileNotFoundError(f"{file}: {split} names {base / entry}, which does not exist; correct the path")
        if source.is_dir():
            found = [path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
            if not found:
                raise FileNotFoundError(f"{file}: {split} names {source}, which has no images; correct the path")
            yield from found
        else:
            for line in filter(None, map(str.strip, read_text(source).splitlines())):
                beside, below = source.parent / line, base / line
                yield below if below.is_file() and not beside.is_file() else beside


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(file: Path, num_classes: int, width: int, height: int, faults: list[str]) -> list[dict[str, Any]]:
    annotations = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            class_id, *numbers = map(float, line.split())
            annotations.append(_annotation(class_id, numbers, num_classes, width, height))
        except ValueError as error:
            faults.append(f"{file}, line {number}: {error}")
    return annotations


def _annotation(class_id: float, numbers: list[float], num_classes: int, width: int, height: int) -> dict[str, Any]:
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise ValueError(f"{1 + len(numbers)} numbers")
    if class_id not in range(num_classes):
        raise ValueError(f"class {class_id:g}, but names has the classes 0 to {num_classes - 1}")
    if outside := [value for value in numbers if not -_TOLERANCE <= value <= 1 + _TOLERANCE]:
        raise ValueError(f"{outside[0]:g} is not between 0 and 1")
    annotation = {"category_id": int(class_id), "bbox_mode": BoxMode.XYXY_ABS}
    if len(numbers) == 4:
        x, y, w, h = numbers
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return {**annotation, "bbox": list(corners)}
    xs, ys = [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return {**annotation, "bbox": [min(xs), min(ys), max(xs), max(ys)], "segmentation": [polygon]}
