"""Masks as annotated, polygons or run lengths: what is wrong with them, and one form for all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks
from pycocotools import mask as mask_util

from pair_detr.utils.messages import counted

_MIN_COORDINATES = 6
# Of the characters of compressed run lengths, which stand for 0 to 63.
_FIRST_CODE = ord("0")
# pycocotools takes memory for every pixel along an edge, and fails without an error where there is none left.
_MAX_COORDINATE = 1e6
_MAX_PIXELS = 10**9


@dataclass(frozen=True)
class MaskFault:
    """One unusable mask, or a part of one; ``index`` counts the image's annotations from 0."""

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
    fault = next(filter(None, map(polygon_fault, segmentation)), None)
    if (
        fault is None
        and image_size is not None
        and not any(_is_inside(polygon, image_size) for polygon in segmentation)
    ):
        return f"a mask outside of the image of {image_size[0]}x{image_size[1]} pixels"
    return fault


def polygon_fault(polygon: Any) -> str | None:
    """Says what makes a polygon unusable, which is to be [x1, y1, x2, y2, ...]; None if nothing does."""
    if not isinstance(polygon, Sequence) or not all(map(_is_number, {*map(type, polygon)})):
        return "a polygon that is not a list of numbers"
    if len(polygon) % 2:
        return f"a polygon of {counted(len(polygon), 'number')}, which are not pairs"
    if len(polygon) < _MIN_COORDINATES:
        return f"a polygon of {counted(len(polygon), 'number')}; three points are {_MIN_COORDINATES}"
    largest, smallest = max(polygon), min(polygon)
    if math.inf not in (largest, -smallest) and (largest > _MAX_COORDINATE or smallest < -_MAX_COORDINATE):
        return "a polygon with a coordinate far outside of any image"
    # NaN escapes comparisons.
    if not math.isfinite(sum(polygon)):
        return "a polygon with a coordinate that is not finite"
    return None


def usable_part(segmentation: Any) -> tuple[Any, list[str]]:
    """Leaves the unusable ones of several polygons out; where none is usable, all stay.

    Returns:
        the segmentation, and what is wrong with the polygons that are left out.
    """
    if not isinstance(segmentation, list):
        return segmentation, []
    faults = [polygon_fault(polygon) for polygon in segmentation]
    if not any(faults):
        return segmentation, []
    if all(faults):
        # Some programs write a single polygon without the list around it.
        return ([segmentation] if polygon_fault(segmentation) is None else segmentation), []
    good = [polygon for polygon, fault in zip(segmentation, faults, strict=True) if fault is None]
    return good, [fault for fault in faults if fault is not None]


def size_of(record: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an image in Detectron2's standard format; None where they are not known."""
    return (record["width"], record["height"]) if "width" in record and "height" in record else None


def faulty_masks(record: dict[str, Any]) -> tuple[dict[int, MaskFault], dict[int, MaskFault]]:
    """Annotations of an image without a mask and with an unusable one, by their position; crowds need none."""
    missing: dict[int, MaskFault] = {}
    bad: dict[int, MaskFault] = {}
    if "pan_seg_file_name" in record:
        return missing, bad
    for index, annotation in enumerate(record.get("annotations", ())):
        segmentation = annotation.get("segmentation")
        if not annotation.get("iscrowd") and (reason := mask_fault(segmentation, size_of(record))) is not None:
            (bad if segmentation else missing)[index] = MaskFault(record["file_name"], index, reason)
    return missing, bad


def to_rle(segmentation: list | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A usable segmentation (see :func:`mask_fault`) of an image of this size in pixels as compressed run lengths.

    Polygons fill the pixels that COCO's evaluation fills.
    """
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def decode_mask(segmentation: list | dict[str, Any] | np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) uint8, 0 and 1: the pixels of what :func:`to_rle` takes; pixels stay as they are."""
    if isinstance(segmentation, np.ndarray):
        return segmentation
    return mask_util.decode(to_rle(segmentation, height, width))


def mask_bounds(mask: np.ndarray) -> list[float]:
    """The box of an (H, W) mask, xyxy in pixels; zeros if it is empty."""
    return BitMasks(torch.from_numpy(mask)[None]).get_bounding_boxes().tensor[0].tolist()


def rle_fault(segmentation: dict[str, Any], image_size: tuple[int, int] | None = None) -> str | None:
    """Says what makes run lengths unusable, as :func:`mask_fault`; None if nothing does."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not _are_lengths(size) or len(size) != 2 or not isinstance(counts, (list, str, bytes)):
        return "run lengths without size [height, width] and counts"
    height, width = size
    if image_size is not None and (width, height) != tuple(image_size):
        return f"run lengths of {width}x{height} pixels, but the image has {image_size[0]}x{image_size[1]}"
    if height * width > _MAX_PIXELS:
        return f"run lengths of {width}x{height} pixels, more than any image has"
    if not isinstance(counts, list):
        runs = _run_lengths(counts)
        if runs is None or sum(runs) != height * width:
            return f"compressed run lengths that are not those of a mask of {width}x{height}"
    elif not _are_lengths(counts):
        return "run lengths that are not all whole numbers from 0 on"
    elif sum(counts) != height * width:
        return f"run lengths of {sum(counts)} pixels in a mask of {width}x{height}"
    return None


def _run_lengths(counts: str | bytes) -> list[int] | None:
    """The lengths that compressed ones stand for; None if they stand for none.

    pycocotools takes others as well: it writes past the end of the mask, or compares masks forever.

    Source: ``rleFrString`` in COCO's maskApi.c: five bits a character, the lowest first, a sixth where more follow, the
    highest of the last for the sign; from the fourth run on it is the difference to the run before the last.
    """
    codes = counts.encode() if isinstance(counts, str) else counts
    runs: list[int] = []
    value, bits = 0, 0
    for code in codes:
        if not 0 <= code - _FIRST_CODE < 64:
            return None
        value |= (code - _FIRST_CODE & 31) << bits
        bits += 5
        if code - _FIRST_CODE & 32:
            continue
        if code - _FIRST_CODE & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return None
        value, bits = 0, 0
    return None if bits or not runs else runs


def _is_inside(polygon: Sequence[float], image_size: tuple[int, int]) -> bool:
    """Whether the bounds of a polygon share an area with the image."""
    width, height = image_size
    xs, ys = polygon[::2], polygon[1::2]
    return min(xs) < width and max(xs) > 0 and min(ys) < height and max(ys) > 0


def _is_number(kind: type) -> bool:
    # NumPy's are also real numbers.
    return kind in (int, float) or (issubclass(kind, Real) and kind is not bool)


def _are_lengths(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is int and value >= 0 for value in values)
