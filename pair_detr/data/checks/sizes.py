"""How large the images and the objects of a dataset are."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

# COCO's limits of small and medium objects: areas in pixels.
_SMALL, _MEDIUM = 32**2, 96**2
_NAMES = ("small (below 32x32 pixels)", "medium (below 96x96)", "large")


def describe_sizes(records: Sequence[dict[str, Any]], unusable: Sequence[Container[int]]) -> str:
    """Sizes of images, and of boxes as COCO classes them and relative to their images.

    Args:
        records: images in Detectron2's standard format.
        unusable: for each image its boxes that do not count, by their position.

    Returns:
        a line for images and one for boxes, less those that there are no sizes of.
    """
    images = np.array([(record["width"], record["height"]) for record in records if "width" in record])
    lines = []
    if len(images):
        areas = images.prod(1)
        smallest, median, largest = (images[np.argsort(areas)[i]] for i in (0, len(areas) // 2, -1))
        lines.append("images from {}x{} to {}x{} pixels, median {}x{}".format(*smallest, *largest, *median))
    boxes = [
        (*BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS)[2:], *size)
        for record, faults in zip(records, unusable, strict=True)
        if (size := (record.get("width"), record.get("height"))) != (None, None)
        for index, annotation in enumerate(record.get("annotations", ()))
        if index not in faults and not annotation.get("iscrowd") and len(annotation["bbox"]) == 4
    ]
    if boxes:
        width, height, image_width, image_height = np.array(boxes, dtype=float).T
        area = width * height
        small, large = np.mean(area < _SMALL), np.mean(area >= _MEDIUM)
        shares = zip((small, 1 - small - large, large), _NAMES, strict=True)
        side = np.median(np.sqrt(area / (image_width * image_height)))
        parts = ", ".join(f"{100 * share:.0f}% {name}" for share, name in shares)
        lines.append(f"boxes: {parts}; median side {100 * side:.0f}% of the image's")
    return "\n".join(lines)
