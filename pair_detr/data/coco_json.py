"""Files in COCO's JSON format: what they must hold, and one form for each of the ways in which programs write it."""

import json
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from detectron2.utils.logger import log_first_n

from pair_detr.data.json_files import read_json
from pair_detr.data.messages import join_some
from pair_detr.data.scalars import find_id, flag_of, id_of, integer_of, number_of

# The lists of a file in the order in which they are checked, and what every entry needs.
_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
_REMEDY = "Correct the file: " + "; ".join(
    f"every entry of {key} needs {', '.join(fields)}" for key, fields in _FIELDS.items()
)
_KIND = {"images": "image", "categories": "category", "annotations": "annotation"}
_NUMBERS = {int, float}
# Annotations of which COCO's own files have some twice have this in their name, as for Detectron2.
_WITH_REPEATED_IDS = "minival"
_NAMED = 3


@dataclass
class _Notes:
    """What is changed on reading and worth saying.

    Args:
        ignored: number of objects that "ignore" makes crowds.
        bad_areas: labels of annotations whose area is of no use.
    """

    ignored: int = 0
    bad_areas: list[str] = field(default_factory=list)


def read_coco_json(json_file: str) -> dict[str, Any]:
    """Reads annotations of objects in COCO's format, and checks that they can be used.

    Returns:
        what the file holds, with these in one form, whatever the file has: ids are ints or text, and those of an
        annotation are the ones of its image and category; ``width`` and ``height`` are ints, ``bbox`` is a list of four
        floats, names of categories are text without spaces around it. Every annotation has ``iscrowd``, 0 or 1, which
        is 1 for an object with ``ignore`` 1; ``area`` is a positive float, or not there. ``segmentation`` is as it is
        in the file. A file of test images has no list "annotations".

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or entries lack something or point to nothing; the message names them.
    """
    content = read_json(json_file)
    notes = _Notes()
    if faults := _faults_of(content, notes, unique=_WITH_REPEATED_IDS not in str(json_file)):
        raise ValueError(f"{json_file}: {join_some(faults)}. {_REMEDY} (bbox is [x, y, width, height] in pixels).")
    _log(json_file, notes)
    return content


def normalize_images(images: list[Any], fields: Collection[str] = _FIELDS["images"]) -> list[str]:
    """Brings the entries of "images" to the form of :func:`read_coco_json`, in place.

    Args:
        images: the list.
        fields: that every entry needs.

    Returns:
        what is wrong with entries, which are named.
    """
    return _normalize("images", images, fields, _normalize_image)


def normalize_categories(categories: list[Any]) -> list[str]:
    """As :func:`normalize_images`, for "categories"."""
    return _normalize("categories", categories, _FIELDS["categories"], _normalize_category)


def _faults_of(content: Any, notes: _Notes, unique: bool) -> list[str]:
    if not isinstance(content, dict):
        return [f"it holds a {type(content).__name__}, not an object"]
    # Files of test images have no annotations.
    lists = {"annotations": []} | {key: content[key] for key in _FIELDS if key in content}
    if faults := [f'there is no list "{key}" in it' for key in _FIELDS if not isinstance(lists.get(key), list)]:
        return faults
    if not lists["categories"]:
        return ["categories is empty"]
    images, categories = lists["images"], lists["categories"]
    faults = [*normalize_images(images), *normalize_categories(categories)]
    ids = {"image_id": _ids(images), "category_id": _ids(categories)}
    normalize = partial(_normalize_annotation, ids=ids, notes=notes)
    return faults + _normalize("annotations", lists["annotations"], _FIELDS["annotations"], normalize, unique)


def _normalize(
    key: str,
    entries: list[Any],
    fields: Collection[str],
    normalize: Callable[[dict[str, Any]], str | None],
    unique: bool = True,
) -> list[str]:
    """Applies a function that says what is wrong with an entry to those that have the fields; names what is wrong."""
    if key != "annotations":
        _unify_ids(entries)
    faults = []
    seen: set[int | str] = set()
    for position, entry in enumerate(entries):
        fault = _missing(entry, fields) or normalize(entry)
        if fault is None:
            if unique and entry["id"] in seen:
                fault = "occurs more than once"
            seen.add(entry["id"])
        if fault is not None:
            faults.append(f"{_label(key, position, entry)} {fault}")
    kinds = {type(own) for own in seen}
    if key != "annotations" and len(kinds) > 1:
        examples = (next(own for own in seen if type(own) is kind) for kind in (int, str))
        faults.append(f"{key} have numbers and text as ids, as {' and '.join(map(json.dumps, examples))}")
    return faults


def _missing(entry: Any, fields: Collection[str]) -> str | None:
    if not isinstance(entry, dict):
        return "is not an object"
    missing = [field for field in fields if field not in entry]
    return f"has no {', '.join(missing)}" if missing else None


def _unify_ids(entries: list[Any]) -> None:
    """Makes ids that are whole numbers as text ints where others are ints already."""
    entries = [entry for entry in entries if isinstance(entry, dict)]
    if len({type(id_of(entry.get("id"))) for entry in entries} & {int, str}) > 1:
        for entry in entries:
            if (number := integer_of(entry.get("id"))) is not None:
                entry["id"] = number


def _ids(entries: list[Any]) -> set[int | str]:
    ids = {id_of(entry.get("id")) for entry in entries if isinstance(entry, dict)}
    return ids - {None}


def _normalize_image(image: dict[str, Any]) -> str | None:
    if (fault := _normalize_id(image)) is not None:
        return fault
    for side in ("width", "height"):
        length = integer_of(image[side])
        if length is None or length <= 0:
            return _has(side, image[side])
        image[side] = length
    file_name = image.get("file_name")
    if "file_name" in image and not (isinstance(file_name, str) and file_name.strip()):
        return _has("file_name", file_name)
    return None


def _normalize_category(category: dict[str, Any]) -> str | None:
    if (fault := _normalize_id(category)) is not None:
        return fault
    name = category["name"]
    if type(name) in _NUMBERS:
        # Digits and grades are classes, too.
        name = json.dumps(name)
    if not isinstance(name, str) or not name.strip():
        return _has("name", name)
    category["name"] = name.strip()
    return None


def _normalize_annotation(
    annotation: dict[str, Any], ids: dict[str, Collection[int | str]], notes: _Notes
) -> str | None:
    # Of hundreds of thousands, nearly all are as they should be: what costs time is done for the others alone.
    if (fault := _normalize_id(annotation)) is not None:
        return fault
    for key, known in ids.items():
        value = annotation[key]
        if type(value) not in (int, str) or value not in known:
            if (found := find_id(value, known)) is None:
                of = {"image_id": "images", "category_id": "categories"}[key]
                return _has(key, value) + ("" if id_of(value) is None else f", which is not among the {of}")
            annotation[key] = found
    bbox = annotation["bbox"]
    numbers = [*map(number_of, bbox)] if isinstance(bbox, list) and len(bbox) == 4 else [None]
    if None in numbers:
        return _has("bbox", bbox)
    annotation["bbox"] = numbers
    return _normalize_flags(annotation, notes) or _normalize_area(annotation, notes)


def _normalize_flags(annotation: dict[str, Any], notes: _Notes) -> str | None:
    for key in ("iscrowd", "ignore"):
        value = annotation.get(key)
        if type(value) is not int or value not in (0, 1):
            if (flag := flag_of(value)) is None:
                return _has(key, value)
            if value is not None or key == "iscrowd":
                annotation[key] = flag
    if annotation.get("ignore") and not annotation["iscrowd"]:
        annotation["iscrowd"] = 1
        notes.ignored += 1
    return None


def _normalize_area(annotation: dict[str, Any], notes: _Notes) -> str | None:
    if "area" in annotation:
        value = annotation.pop("area")
        area = number_of(value)
        if area is not None and 0 < area < math.inf:
            annotation["area"] = area
        elif value is not None:
            # Nothing but the evaluation uses it, and can compute it.
            notes.bad_areas.append(
                f"annotation {annotation['id']} of image {annotation['image_id']} {json.dumps(value)}"
            )
    return None


def _normalize_id(entry: dict[str, Any]) -> str | None:
    value = entry["id"]
    if type(value) not in (int, str):
        if (own := id_of(value)) is None:
            return _has("id", value)
        entry["id"] = own
    return None


def _has(key: str, value: Any) -> str:
    return f"has {key} {json.dumps(value)}"


def _label(key: str, position: int, entry: Any) -> str:
    if not isinstance(entry, dict) or "id" not in entry:
        return f"{key}[{position}]"
    name = f"{_KIND[key]} {entry['id']}"
    return f"{name} of image {entry['image_id']}" if "image_id" in entry else name


def _log(json_file: str, notes: _Notes) -> None:
    # Files are read several times in a run.
    if notes.ignored:
        log_first_n(
            logging.INFO,
            f"{json_file}: {notes.ignored} objects marked with ignore are read as crowds (iscrowd 1): they are not "
            "trained on, and need not be found.",
            name=__name__,
            key="message",
        )
    if notes.bad_areas:
        log_first_n(
            logging.WARNING,
            f"{json_file}: the area of {len(notes.bad_areas)} annotations is no positive number "
            f"({join_some(notes.bad_areas, _NAMED)}). The evaluation computes it; correct or remove it.",
            name=__name__,
            key="message",
        )
