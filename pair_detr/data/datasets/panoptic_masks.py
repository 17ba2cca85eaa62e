"""Annotations with masks of panoptic data, from the PNG files of Detectron2's standard and separated forms."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from pair_detr.data.datasets.panoptic_png import read_segment_ids, read_stuff
from pair_detr.utils.messages import join_some

logger = logging.getLogger(__name__)

# Values of the separated form's PNG files that are no stuff.
_THINGS, _IGNORED = 0, 255
# Detectron2's mapper would read a file for a semantic model.
_KEYS_OF_FILES = ("pan_seg_file_name", "sem_seg_file_name", "segments_info", "first_stuff_class")
_NAMED = 5
# Files that a warning of this process has named.
_warned: set[str] = set()
_MAX_WARNINGS = 20


def mask_file(record: dict[str, Any]) -> str | None:
    """The PNG file of a panoptic image of ``coco_panoptic.complete_records``, None of others."""
    return record.get("pan_seg_file_name") or (record["sem_seg_file_name"] if "first_stuff_class" in record else None)


def load_segment_masks(record: dict[str, Any], masks: bool) -> dict[str, Any]:
    """Annotations of an image of ``coco_panoptic.complete_records``, completed from its PNG file.

    Segments without a pixel are left out, with a warning for the first images.

    Args:
        record: any image, not changed.
        masks: whether masks are needed; boxes of the standard form do without the file.

    Returns:
        a copy in the form that detection has. Annotations of the standard form have masks, and the boxes of these; in
        the separated form there is one a class of stuff beside the instances. Annotations of an image that is not
        panoptic stay as they are.

    Raises:
        OSError: the file cannot be read; the message names it.
        ValueError: it is of another size than the image is said to be, or of a kind that cannot tell segments apart.
    """
    annotations = record.get("annotations", ())
    if "first_stuff_class" in record:
        stuff, first = read_mask_file(record), record["first_stuff_class"]
        present = [value for value in np.unique(stuff).tolist() if value not in (_THINGS, _IGNORED)]
        annotations = [*annotations, *(_with_mask({}, stuff == v, category_id=first + v - 1) for v in present)]
    elif "pan_seg_file_name" in record and masks:
        ids = read_mask_file(record)
        drawn = [(a, ids == a["segment_id"]) for a in annotations]
        if missing := [a["segment_id"] for a, mask in drawn if not mask.any()]:
            _warn_of_missing(record["pan_seg_file_name"], missing)
        annotations = [_with_mask(a, mask) for a, mask in drawn if mask.any()]
    return {key: value for key, value in record.items() if key not in _KEYS_OF_FILES} | {"annotations": annotations}


def missing_segments(record: dict[str, Any]) -> list[int]:
    """Ids of segments of the standard form that have no pixel in the PNG file of their image.

    Raises:
        OSError, ValueError: as of :func:`load_segment_masks`.
    """
    if "pan_seg_file_name" not in record:
        return []
    present = set(np.unique(read_mask_file(record)).tolist())
    return [segment["id"] for segment in record["segments_info"] if segment["id"] not in present]


def read_mask_file(record: dict[str, Any]) -> np.ndarray | None:
    """(H, W) segment or class of stuff of each pixel, as the PNG file of an image has them; None of other images.

    Raises:
        OSError, ValueError: as of :func:`load_segment_masks`.
    """
    file = mask_file(record)
    if file is None:
        return None
    if "pan_seg_file_name" in record:
        pixels = read_segment_ids(file, [segment["id"] for segment in record["segments_info"]])
    else:
        pixels = read_stuff(file)
    height, width = pixels.shape
    expected = record.get("width", width), record.get("height", height)
    if (width, height) != expected:
        raise ValueError(size_fault(file, (width, height), record["file_name"], expected))
    return pixels


def size_fault(file: str, size: tuple[int, int], image: str, expected: tuple[int, int]) -> str:
    """Says that a PNG file is of another size than its image."""
    return (
        f"{file} has {size[0]}x{size[1]} pixels, but its image {image} {expected[0]}x{expected[1]}. "
        "Replace the file that is wrong."
    )


def _warn_of_missing(file: str, segments: Sequence[int]) -> None:
    # A loader comes back to each image in every epoch.
    if file in _warned or len(_warned) >= _MAX_WARNINGS:
        return
    _warned.add(file)
    logger.warning(
        "%s has no pixel of %d of its segments, which are left out: %s. Correct the file or the ids.%s",
        file,
        len(segments),
        join_some(list(map(str, segments)), _NAMED),
        " Further ones are left out without a word; check_dataset --open-images lists all."
        if len(_warned) == _MAX_WARNINGS
        else "",
    )


def _with_mask(annotation: dict[str, Any], mask: np.ndarray, **changes: Any) -> dict[str, Any]:
    segmentation = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    box = {"bbox": mask_util.toBbox(segmentation).tolist(), "bbox_mode": BoxMode.XYWH_ABS}
    return {"iscrowd": 0, **annotation, **box, "segmentation": segmentation, **changes}
