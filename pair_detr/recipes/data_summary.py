"""What a recipe has to know of the training data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode


@dataclass(frozen=True)
class DataSummary:
    """Training data in numbers.

    Attributes:
        images: how many.
        classes: how many.
        objects: of an image, on average; crowds do not count.
        most_objects: of an image.
        height: of images in pixels, the median.
        width: of images in pixels, the median.
        box_side: square root of a box's part of the area of its image, the median.
        masks: whether all objects have one.
    """

    images: int
    classes: int
    objects: float
    most_objects: int
    height: int
    width: int
    box_side: float
    masks: bool


def summarize(records: Sequence[dict[str, Any]], classes: int) -> DataSummary:
    """Counts and measures images in Detectron2's standard format.

    Args:
        records: with "width", "height" and "annotations".
        classes: how many there are.

    Raises:
        ValueError: there is no object to learn from.
    """
    objects = [[a for a in record.get("annotations", ()) if not a.get("iscrowd")] for record in records]
    counts = [len(of_image) for of_image in objects]
    if not any(counts):
        raise ValueError("no image has a box: a detector learns from boxes. Labels of images alone train none")
    sides = [
        np.sqrt(np.prod(BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS)[2:]) / area)
        for record, of_image in zip(records, objects, strict=True)
        for area in [record["width"] * record["height"]]
        for a in of_image
    ]
    height, width = (int(np.median([record[key] for record in records])) for key in ("height", "width"))
    return DataSummary(
        len(records),
        classes,
        float(np.mean(counts)),
        max(counts),
        height,
        width,
        float(np.median(sides)),
        all(a.get("segmentation") for of_image in objects for a in of_image),
    )
