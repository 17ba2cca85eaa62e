"""Data that can be trained on, but look like a mistake."""

from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from pair_detr.utils.messages import join_some

# Where boxes may end, as a factor of the image's side: annotators go beyond the edge by a few pixels.
_REACH = 1.1
_NAMED = 3


def suspicions_of(
    dicts: Sequence[dict[str, Any]], classes: Sequence[str], unusable: Sequence[Container[int]]
) -> list[str]:
    """Names of classes that occur twice, boxes that are probably in another format than declared, too many crowds.

    Boxes whose positions are in ``unusable``, for each image, are not looked at.

    Returns:
        what is suspicious and what to do about it, a text for each kind.
    """
    return [*_repeated_classes(classes), *_unlikely_boxes(dicts, unusable), *_unlikely_marks(dicts)]


def _repeated_classes(classes: Sequence[str]) -> list[str]:
    twice = [name for name, count in Counter(classes).items() if count > 1]
    return [f"classes {join_some(twice)} occur more than once; give each category a name of its own"] if twice else []


def _unlikely_boxes(dicts: Sequence[dict[str, Any]], unusable: Sequence[Container[int]]) -> list[str]:
    labels, boxes, sizes, have_corners = [], [], [], []
    for record, faults in zip(dicts, unusable, strict=True):
        size = (record.get("width"), record.get("height"))
        if None in size:
            continue
        for index, annotation in enumerate(record.get("annotations", ())):
            if index not in faults:
                labels.append((index, record["file_name"]))
                boxes.append(annotation["bbox"])
                sizes.append(size)
                have_corners.append(annotation["bbox_mode"] == BoxMode.XYXY_ABS)
    if not labels:
        return []
    corners = np.array(boxes, dtype=float)
    ends = corners[:, 2:] + np.where(np.array(have_corners)[:, None], 0, corners[:, :2])
    outside = [labels[i] for i in np.flatnonzero((ends > _REACH * np.array(sizes)).any(axis=1))]
    suspicious = []
    if outside:
        named = join_some([f"annotation {index} of {file}" for index, file in outside], _NAMED)
        suspicious.append(
            f"{len(outside)} of {len(labels)} boxes end far beyond their image ({named}); correct them, or their "
            "format: [x, y, width, height] in COCO's JSON, two corners in Pascal VOC's XML, pixels of the turned image"
        )
    if ends.max() <= 1:
        suspicious.append("all boxes are within the first pixel; they look like fractions of the image: write pixels")
    return suspicious


def _unlikely_marks(dicts: Sequence[dict[str, Any]]) -> list[str]:
    """Marks that are for a few objects, on most of them."""
    annotations = [annotation for record in dicts for annotation in record.get("annotations", ())]
    crowds, difficult = (len([1 for a in annotations if a.get(key)]) for key in ("iscrowd", "difficult"))
    suspicious = []
    if 2 * crowds > len(annotations):
        suspicious.append(
            f"{crowds} of {len(annotations)} annotations are crowds (iscrowd 1), which nothing is learned from and no "
            "AP asks for; a converter has probably marked them all: set iscrowd to 0 for single objects"
        )
    if 2 * difficult > len(annotations):
        suspicious.append(
            f"{difficult} of {len(annotations)} objects are difficult, which Pascal VOC's AP does not ask for; a "
            "converter has probably marked them all: set <difficult> to 0"
        )
    return suspicious
