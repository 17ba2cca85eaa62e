"""Files of labels in YOLO's layout: which image they are of, and what they say."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from pair_detr.utils.file_search import search_files
from pair_detr.utils.file_stamps import record_read
from pair_detr.utils.text_files import read_text

SUFFIX = ".txt"
# How the lines of a file are to be.
ROW = "class x_center y_center width height, or class x1 y1 x2 y2 x3 y3 ... of a polygon, all as fractions of the image"
# Rounding takes coordinates beyond the edges; pixels in place of fractions go far beyond.
_TOLERANCE = 0.01
_LEAST_NUMBERS = 5


def expected_file(image: Path) -> Path:
    """Where the labels of an image are looked for; there need be none."""
    return labels_folder(image.parent) / f"{image.stem}{SUFFIX}"


def labels_folder(images: Path) -> Path:
    """The folder with the labels of the images in a folder: itself where no folder of its path is named images."""
    parts = list(images.parts)
    named = [index for index, part in enumerate(parts) if part == "images"]
    if named:
        parts[named[-1]] = "labels"
    return Path(*parts)


def find_labels(images: Sequence[Path]) -> list[Path | None]:
    """The file of labels of each image, None where there is none.

    It may also differ from what is expected in the case of its ending, and in how its name composes letters with
    accents, which archives of macOS change.
    """
    folders: dict[Path, dict[str, Path]] = {}
    labels = []
    for image in images:
        expected = expected_file(image)
        if expected.parent not in folders:
            folders[expected.parent] = _labels_in(expected.parent)
        by_name = folders[expected.parent]
        labels.append(by_name.get(expected.name) or by_name.get(unicodedata.normalize("NFC", expected.name)))
    return labels


def unused_labels(folder: Path, used: Collection[Path]) -> list[Path]:
    """Files with objects in the folder of the labels of the images in ``folder``, and those below, except for ``used``.

    Other text, such as lists of classes, is none of these.
    """
    labels = labels_folder(folder)
    files = search_files(labels, {SUFFIX}).files if labels.is_dir() else []
    return [file for file in files if file not in used and _has_objects(file)]


def read_labels(file: Path, num_classes: int, width: int, height: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of an image, and what is wrong with the file, by line.

    Returns:
        annotations in Detectron2's standard format, boxes in xyxy pixels; and faults.
    """
    annotations: list[dict[str, Any]] = []
    faults: list[str] = []
    try:
        lines = read_text(file).splitlines()
    except ValueError as error:
        return annotations, [str(error).rstrip(".")]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            class_id, *numbers = map(float, line.split())
            annotations.append(_annotation(class_id, numbers, num_classes, width, height))
        except ValueError as error:
            faults.append(f"{file}, line {number}: {error}")
    return annotations, faults


def _labels_in(folder: Path) -> dict[str, Path]:
    """Files by their names, also with an ending in lower case and composed letters."""
    if not folder.is_dir():
        return {}
    record_read(folder)
    names = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIX) and entry.is_file()]
    similar = {unicodedata.normalize("NFC", name[: -len(SUFFIX)] + SUFFIX): folder / name for name in names}
    return similar | {name: folder / name for name in names}


def _has_objects(file: Path) -> bool:
    try:
        first = next(filter(None, map(str.split, read_text(file).splitlines())), [])
        return len([float(field) for field in first]) >= _LEAST_NUMBERS
    except ValueError:
        return False


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
