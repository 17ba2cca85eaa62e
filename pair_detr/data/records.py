"""One form for the images of all datasets, whoever has registered them."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from pair_detr.data.annotation_masks import MaskFault, usable_part
from pair_detr.data.scalars import id_of, integer_of, numbers_of, unify_marks
from pair_detr.utils.messages import counted, join_some, log_once

logger = logging.getLogger(__name__)

_IGNORED = "ignore 1: such are crowds, which are not trained on and need not be found"
_BAD_AREA = "an area that is not a positive number: the evaluation computes it"
_FILE_KEYS = ("file_name", "pan_seg_file_name", "sem_seg_file_name")
# What annotations of objects are called, in Detectron2's format for detection and in the one for segments.
_LISTS = ("annotations", "segments_info")
_REMEDY = "Correct the function that was registered for it; the format is Detectron2's standard one for datasets."


def normalize_records(name: str, records: Any) -> list[dict[str, Any]]:
    """Brings the images of a dataset, in any iterable, to the form that loaders, evaluators and writers rely on.

    Paths, NumPy's numbers and arrays, tensors, and floats for whole numbers become Python's own types. Boxes and masks
    that cannot be used stay as they are: :mod:`pair_detr.data.checks.trainable` lists them.

    Returns:
        dicts with ``file_name``, text, ``image_id``, an int or text of its own for each (the ``file_name`` if the
        dataset has no ids), and ``width`` and ``height``, ints, unless they are not known. Annotations have
        ``category_id``, an int, ``bbox`` (a list of floats) and ``bbox_mode`` if they have a box, and ``iscrowd``, 0 or
        1, which is 1 for an object with ``ignore`` 1; ``area``, if they have it, is a positive float.

    Raises:
        ValueError: something is missing or cannot be understood; the message names the image and the annotation.
    """
    if isinstance(records, (dict, str, bytes)) or not _is_iterable(records):
        raise ValueError(f'Dataset "{name}" is a {type(records).__name__}, not a list of dicts. {_REMEDY}')
    normalized = []
    notes: Counter[str] = Counter()
    for index, record in enumerate(records):
        try:
            normalized.append(_normalize(record, notes))
        except ValueError as error:
            file = record.get("file_name") if isinstance(record, dict) else None
            where = f"image {index}" if file is None else f"image {index} ({file})"
            raise ValueError(f'Dataset "{name}": {where} {error}. {_REMEDY}') from error
    _complete_ids(name, normalized)
    for level, what in ((logging.INFO, _IGNORED), (logging.WARNING, _BAD_AREA)):
        if notes[what]:
            log_once(logger, level, f'Dataset "{name}": {counted(notes[what], "object has", "objects have")} {what}.')
    return normalized


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:
        return False
    return True


def _normalize(record: Any, notes: Counter[str]) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}, not a dict")
    record = dict(record)
    if "file_name" not in record:
        raise ValueError("has no file_name")
    for key in _FILE_KEYS:
        if key in record:
            record[key] = _path(key, record[key])
    if record.get("image_id") is not None:
        own = id_of(record["image_id"])
        if own is None:
            raise ValueError(f"has image_id {record['image_id']!r}; it must be a whole number or text")
        record["image_id"] = own
    for side in ("width", "height"):
        if record.get(side) is None:
            record.pop(side, None)
            continue
        length = integer_of(record[side])
        if length is None or length <= 0:
            raise ValueError(f"has {side} {record[side]!r}; it must be a positive whole number of pixels")
        record[side] = length
    for key in _LISTS:
        if key in record:
            if not isinstance(record[key], (list, tuple)):
                raise ValueError(f"has {key} of type {type(record[key]).__name__}; it must be a list of dicts")
            record[key] = [_normalize_annotation(key, index, a, notes) for index, a in enumerate(record[key])]
    if "pos_category_ids" in record:
        record["pos_category_ids"] = _labels(record["pos_category_ids"])
    bad_polygons = []
    for index, annotation in enumerate(record.get("annotations", ())):
        if annotation.get("segmentation") is not None:
            annotation["segmentation"], faults = usable_part(_plain_mask(annotation["segmentation"]))
            bad_polygons.extend(MaskFault(record["file_name"], index, fault) for fault in faults)
    if bad_polygons:
        record["bad_polygons"] = [*record.get("bad_polygons", ()), *bad_polygons]
    return record


def _labels(values: Any) -> list[int]:
    if isinstance(values, (str, bytes, dict)) or not _is_iterable(values):
        raise ValueError(f"has pos_category_ids {values!r}; it must be a list of indices of classes, from 0 on")
    labels = [None if isinstance(value, str) else integer_of(value) for value in values]
    if None in labels:
        raise ValueError(f"has pos_category_ids {list(values)!r}; they must be indices of classes, from 0 on")
    return labels


def _path(key: str, value: Any) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path:
        raise ValueError(f"has {key} {value!r}; it must be the path of a file")
    return str(path)


def _normalize_annotation(key: str, index: int, annotation: Any, notes: Counter[str]) -> dict[str, Any]:
    label = f"has annotation {index}" if key == "annotations" else f"has segment {index}"
    if not isinstance(annotation, dict):
        raise ValueError(f"{label} of type {type(annotation).__name__}, not a dict")
    annotation = dict(annotation)
    category = annotation.get("category_id")
    if type(category) is not int:
        if (number := integer_of(category)) is None or isinstance(category, str):
            raise ValueError(f"{label} with category_id {category!r}; it must be the index of its class, from 0 on")
        annotation["category_id"] = number
    wrong, is_ignored, has_bad_area = unify_marks(annotation)
    if wrong is not None:
        raise ValueError(f"{label} with {wrong} {annotation[wrong]!r}; it must be 0 or 1")
    notes[_IGNORED] += is_ignored
    notes[_BAD_AREA] += has_bad_area
    if annotation.get("bbox") is not None:
        annotation["bbox"] = _box(annotation["bbox"])
        if key == "annotations":
            annotation["bbox_mode"] = _box_mode(label, annotation.get("bbox_mode"))
    return annotation


def _plain_mask(segmentation: Any) -> Any:
    """Bitmaps as run lengths and polygons as lists of numbers, where they are arrays; others stay as they are."""
    if hasattr(segmentation, "__array__"):
        array = np.asarray(segmentation)
        if array.ndim != 2:
            return array.tolist()
        return mask_util.encode(np.asfortranarray(array.astype(bool), dtype=np.uint8))
    if isinstance(segmentation, (list, tuple)):
        return [polygon.tolist() if hasattr(polygon, "tolist") else polygon for polygon in segmentation]
    return segmentation


def _box(bbox: Any) -> Any:
    """A list of floats; what is none stays as it is."""
    if not isinstance(bbox, list):
        bbox = bbox.tolist() if hasattr(bbox, "tolist") else bbox
        bbox = list(bbox) if isinstance(bbox, tuple) else bbox
    numbers = numbers_of(bbox) if isinstance(bbox, list) else None
    return bbox if numbers is None else numbers


def _box_mode(label: str, mode: Any) -> BoxMode:
    if type(mode) is BoxMode:
        return mode
    number = integer_of(mode)
    if number is None or number not in list(BoxMode):
        raise ValueError(
            f"{label} with bbox_mode {mode!r}; set it to detectron2.structures.BoxMode.XYXY_ABS (two corners) or "
            "BoxMode.XYWH_ABS (corner, width, height)"
        )
    return BoxMode(number)


def _complete_ids(name: str, records: Sequence[dict[str, Any]]) -> None:
    """Gives images ids where the dataset has none; a ValueError if some have none, or one occurs twice."""
    without = [index for index, record in enumerate(records) if record.get("image_id") is None]
    if without and len(without) < len(records):
        raise ValueError(
            f'Dataset "{name}": {len(without)} of {len(records)} images have no image_id, as image {without[0]} '
            f"({records[without[0]]['file_name']}). Give all images an id of their own, or none."
        )
    for index in without:
        records[index]["image_id"] = records[index]["file_name"]
    files = defaultdict(list)
    for record in records:
        files[record["image_id"]].append(record["file_name"])
    twice = [f"{own!r} ({join_some(those, 3)})" for own, those in files.items() if len(those) > 1]
    if twice:
        raise ValueError(
            f'Dataset "{name}": {"image_id" if not without else "file_name"} {join_some(twice, 5)} occurs more than '
            "once. Predictions of one could not be told from those of the other: "
            + ("give each image an id of its own." if not without else "give each image an image_id.")
        )
