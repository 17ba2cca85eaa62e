"""Annotations with masks of panoptic data, from the PNG files of Detectron2's standard and separated forms."""

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from pair_detr.data.annotation_masks import mask_bounds
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
    """As :func:`draw_segment_masks`, with the masks as run lengths and the annotations in a list, to be kept."""
    record = draw_segment_masks(record, masks)
    annotations = [
        annotation | {"segmentation": mask_util.encode(np.asfortranarray(annotation["segmentation"]))}
        if isinstance(annotation.get("segmentation"), np.ndarray)
        else annotation
        for annotation in record["annotations"]
    ]
    return record | {"annotations": annotations}


def draw_segment_masks(record: dict[str, Any], masks: bool) -> dict[str, Any]:
    """Annotations of an image of ``coco_panoptic.complete_records``, completed from its PNG file.

    Segments without a pixel are left out, with a warning for the first images. Boxes of the standard form need no file
    unless ``masks`` are.

    Returns:
        a copy in the form that detection has. Annotations of the standard form have masks, (H, W) uint8, and the boxes
        of these; in the separated form there is one for each class of stuff besides those of the instances. They are
        drawn one by one, as "annotations" are iterated over. Those of an image that is not panoptic stay as they are.

    Raises:
        OSError: the file cannot be read; the message names it.
        ValueError: it is of another size than the image is said to be, or of a kind that cannot tell segments apart.
    """
    annotations = record.get("annotations", ())
    if "first_stuff_class" in record:
        stuff, first = read_mask_file(record), record["first_stuff_class"]
        present = [value for value in np.unique(stuff).tolist() if value not in (_THINGS, _IGNORED)]
        drawn = (_with_mask({"category_id": first + value - 1}, stuff == value) for value in present)
        annotations = itertools.chain(annotations, drawn)
    elif "pan_seg_file_name" in record and masks:
        ids = read_mask_file(record)
        present = set(np.unique(ids).tolist())
        if missing := [a["segment_id"] for a in annotations if a["segment_id"] not in present]:
            _warn_of_missing(record["pan_seg_file_name"], missing)
        annotations = (_with_mask(a, ids == a["segment_id"]) for a in annotations if a["segment_id"] in present)
    return {key: value for key, value in record.items() if key not in _KEYS_OF_FILES} | {"annotations": annotations}


def missing_segments(record: dict[str, Any]) -> list[int]:
    """Ids of segments of the standard form that have no pixel in the PNG file of their image."""
    if "pan_seg_file_name" not in record:
        return []
    present = set(np.unique(read_mask_file(record)).tolist())
    return [segment["id"] for segment in record["segments_info"] if segment["id"] not in present]


def read_mask_file(record: dict[str, Any]) -> np.ndarray | None:
    """(H, W) segment or class of stuff of each pixel, as the PNG file of an image has them; None for other images."""
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


def _with_mask(annotation: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    box = {"bbox": mask_bounds(mask), "bbox_mode": BoxMode.XYXY_ABS}
    return {"iscrowd": 0, **annotation, **box, "segmentation": mask.astype(np.uint8)}
