"""Masks as annotated, polygons or run lengths: what is wrong with them, and one form for all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pycocotools import mask as mask_util

_MIN_COORDINATES = 6


@dataclass(frozen=True)
class MaskFault:
    """One unusable mask, or a part of one.

    Args:
        file_name: the image.
        index: position among the image's annotations, counted from 0.
        reason: what is wrong, for a message.
    """

    file_name: str
    index: int
    reason: str

    def __str__(self) -> str:
        return f"annotation {self.index} of {PurePath(self.file_name).name} has {self.reason}"


def mask_fault(segmentation: Any, image_size: tuple[int, int] | None = None) -> str | None:
    """Says what makes a segmentation unusable.

    Args:
        segmentation: as in COCO's format: polygons [[x1, y1, x2, y2, ...], ...] in pixels, or run lengths {"size":
            [height, width], "counts": list, str or bytes}.
        image_size: width and height of the image where known.

    Returns:
        the reason in a few words, or None for a usable segmentation.
    """
    if not segmentation:
        return "no segmentation"
    if isinstance(segmentation, dict):
        return rle_fault(segmentation, image_size)
    if not isinstance(segmentation, list):
        return f"a segmentation of type {type(segmentation).__name__}, neither polygons nor run lengths"
    return next(filter(None, map(polygon_fault, segmentation)), None)


def polygon_fault(polygon: Any) -> str | None:
    """Says what makes a polygon unusable, which is to be [x1, y1, x2, y2, ...]; None if nothing does."""
    if not isinstance(polygon, Sequence) or not {*map(type, polygon)} <= {int, float}:
        return "a polygon that is not a list of numbers"
    if len(polygon) % 2:
        return f"a polygon of {len(polygon)} numbers, which are not pairs"
    if len(polygon) < _MIN_COORDINATES:
        return f"a polygon of {len(polygon)} numbers; three points are {_MIN_COORDINATES}"
    if not math.isfinite(sum(polygon)):
        return "a polygon with a coordinate that is not finite"
    return None


def compressed(segmentation: list | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A usable segmentation as compressed run lengths; polygons fill the pixels that COCO's evaluation fills.

    Args:
        segmentation: see :func:`mask_fault`.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def rle_fault(segmentation: dict[str, Any], image_size: tuple[int, int] | None = None) -> str | None:
    """Says what makes run lengths unusable, as :func:`mask_fault`; None if nothing does."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not isinstance(counts, (list, str, bytes)):
        return "run lengths without size [height, width] and counts"
    height, width = size
    if image_size is not None and (width, height) != tuple(image_size):
        return f"run lengths of {width}x{height} pixels, but the image has {image_size[0]}x{image_size[1]}"
    # pycocotools would write past the end of the mask.
    if isinstance(counts, list) and sum(counts) != height * width:
        return f"run lengths of {sum(counts)} pixels in a mask of {width}x{height}"
    return None
