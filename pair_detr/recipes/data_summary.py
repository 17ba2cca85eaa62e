"""What a recipe has to know about the training data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

# Classes with fewer of the boxes do not decide on the size of the images.
_RARE = 0.02
# Images with a longer side than these lose pixels, rather than to make all batches larger.
_USUAL, _LARGEST_ASPECT = 0.95, 2.0


@dataclass(frozen=True)
class DataSummary:
    """Training data in numbers.

    Attributes:
        images: how many.
        classes: how many.
        objects: per image, on average; crowds do not count.
        most_objects: in an image.
        short_side: of the images in pixels, the median.
        aspect: longer side of the images by the shorter one: 95 percent have no larger one; 2 at most.
        box_side: square root of the part of its image that a box covers, the median.
        small_side: square root of the area of a box, relative to the shorter side of its image: the median of the
            class with the smallest objects.
        have_masks: whether each object has one.
    """

    images: int
    classes: int
    objects: float
    most_objects: int
    short_side: int
    aspect: float
    box_side: float
    small_side: float
    have_masks: bool


def summarize(records: Sequence[dict[str, Any]], classes: int) -> DataSummary:
    """Counts and measures images in Detectron2's standard format.

    Args:
        records: with "width", "height" and, where there are objects, "annotations".
        classes: how many there are.

    Raises:
        ValueError: there is no box to learn from.
    """
    sizes = np.array([(record["height"], record["width"]) for record in records], float).reshape(-1, 2)
    objects = [
        (number, annotation)
        for number, record in enumerate(records)
        for annotation in record.get("annotations", ())
        if not annotation.get("iscrowd")
    ]
    owners = np.array([number for number, _ in objects], int)
    boxes = np.array([BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS) for _, a in objects], float)
    areas = boxes.reshape(-1, 4)[:, 2:].clip(min=0).prod(1)
    if not (areas > 0).any():
        raise ValueError("no image has a box, and a detector learns from boxes: annotate some")
    counts = np.bincount(owners, minlength=len(records))
    sides = np.sqrt(areas)
    labels = np.array([annotation["category_id"] for _, annotation in objects])
    frequent = [label for label in np.unique(labels) if (labels == label).mean() >= _RARE] or np.unique(labels)
    relative = sides / sizes.min(1)[owners]
    return DataSummary(
        images=len(records),
        classes=classes,
        objects=float(counts.mean()),
        most_objects=int(counts.max()),
        short_side=int(np.median(sizes.min(1))),
        aspect=float(min(np.quantile(sizes.max(1) / sizes.min(1), _USUAL), _LARGEST_ASPECT)),
        box_side=float(np.median(sides / np.sqrt(sizes.prod(1))[owners])),
        small_side=float(min(np.median(relative[labels == label]) for label in frequent)),
        have_masks=all(annotation.get("segmentation") for _, annotation in objects),
    )
