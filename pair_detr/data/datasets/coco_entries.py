"""Images, categories and annotations in COCO's format: one form for each of the ways in which programs write them.

The functions change the entries in place, and return what is wrong with those that cannot be understood.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pair_detr.data.scalars import find_id, id_of, integer_of, numbers_of, unify_marks

# What every entry needs, in an annotation file for detection.
IMAGE_FIELDS = ("id", "file_name", "width", "height")
CATEGORY_FIELDS = ("id", "name")
ANNOTATION_FIELDS = ("id", "image_id", "category_id", "bbox")


@dataclass
class AnnotationFindings:
    """Faults of annotations, the number that "ignore" makes crowds, and names of those whose area was removed."""

    faults: list[str] = field(default_factory=list)
    num_ignored: int = 0
    bad_areas: list[str] = field(default_factory=list)


def normalize_images(images: list[Any], fields: Collection[str] = IMAGE_FIELDS) -> list[str]:
    """Ids become ints, or stay text; ``width`` and ``height`` become ints. Every entry needs the fields."""
    return _normalize_list("image", "images", images, fields, _normalize_image)


def normalize_categories(categories: list[Any], fields: Collection[str] = CATEGORY_FIELDS) -> list[str]:
    """Ids become ints, or stay text; names become text without spaces around it."""
    return _normalize_list("category", "categories", categories, fields, _normalize_category)


def normalize_annotations(
    annotations: list[Any],
    images: Iterable[dict[str, Any]],
    categories: Iterable[dict[str, Any]] | None,
    fields: Collection[str] = ANNOTATION_FIELDS,
    unique: bool = True,
) -> AnnotationFindings:
    """Ids become those of images and categories, ``bbox`` a list of four floats.

    All get ``iscrowd``, 0 or 1, which is 1 for an object with ``ignore`` 1; ``area`` becomes a positive float, or is
    removed. ``segmentation`` and everything else stay as they are.

    Args:
        categories: of the file, normalized; None if annotations have none.
        unique: whether an ``id`` that occurs twice is a fault.
    """
    known = {"image_id": ("images", _ids(images))}
    if categories is not None:
        known["category_id"] = ("categories", _ids(categories))
    findings = AnnotationFindings()
    seen: set[int | str] = set()
    # Of hundreds of thousands nearly all are as they should be: what costs time is done for the others alone.
    for position, annotation in enumerate(annotations):
        fault = missing_fields(annotation, fields) or _normalize_annotation(annotation, known, findings)
        if fault is None and unique:
            if annotation["id"] in seen:
                fault = "occurs more than once"
            seen.add(annotation["id"])
        if fault is not None:
            findings.faults.append(f"{_label('annotation', 'annotations', position, annotation)} {fault}")
    return findings


def missing_lists(content: Any, keys: Collection[str], optional: Collection[str] = ()) -> list[str]:
    """What is wrong with a file's content that is to be an object with lists, of which some may be left out."""
    if not isinstance(content, dict):
        return [f"it holds a {type(content).__name__}, not an object"]
    return [
        f'there is no list "{key}" in it'
        for key in keys
        if not isinstance(content.get(key, [] if key in optional else None), list)
    ]


def missing_fields(entry: Any, fields: Collection[str]) -> str | None:
    """What an entry lacks; None if nothing."""
    if not isinstance(entry, dict):
        return "is not an object"
    missing = [name for name in fields if name not in entry]
    return f"has no {', '.join(missing)}" if missing else None


def in_order_of_ids(categories: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Categories in the order of the classes that they become."""
    return sorted(categories, key=lambda category: category["id"])


def describe_fields(fields: Mapping[str, Collection[str]]) -> str:
    """What each list's entries need, for a message."""
    return "; ".join(f"every entry of {key} needs {', '.join(names)}" for key, names in fields.items())


def _normalize_list(
    kind: str,
    key: str,
    entries: list[Any],
    fields: Collection[str],
    normalize: Callable[[dict[str, Any]], str | None],
) -> list[str]:
    faults = []
    ids: dict[int | str, None] = {}
    _unify_ids(entries)
    for position, entry in enumerate(entries):
        fault = missing_fields(entry, fields) or _normalize_id(entry) or normalize(entry)
        if fault is None and entry["id"] in ids:
            fault = "occurs more than once"
        if fault is None:
            ids[entry["id"]] = None
        else:
            faults.append(f"{_label(kind, key, position, entry)} {fault}")
    examples = {type(own): json.dumps(own) for own in ids}
    if len(examples) > 1:
        faults.append(f"{key} have both numbers and text as ids, as {' and '.join(examples.values())}")
    return faults


def _unify_ids(entries: list[Any]) -> None:
    """Makes ids that are whole numbers as text ints where others are ints already."""
    kinds = {type(id_of(entry.get("id"))) for entry in entries if isinstance(entry, dict)}
    if {int, str} <= kinds:
        for entry in entries:
            if isinstance(entry, dict) and (number := integer_of(entry.get("id"))) is not None:
                entry["id"] = number


def _ids(entries: Iterable[Any]) -> set[int | str]:
    # Those of entries with another fault count: one message of each is enough.
    return {id_of(entry.get("id")) for entry in entries if isinstance(entry, dict)} - {None}


def _normalize_id(entry: dict[str, Any]) -> str | None:
    value = entry["id"]
    if type(value) not in (int, str):
        if (own := id_of(value)) is None:
            return _has("id", value)
        entry["id"] = own
    return None


def _normalize_image(image: dict[str, Any]) -> str | None:
    for side in ("width", "height"):
        if side in image:
            length = integer_of(image[side])
            if length is None or length <= 0:
                return _has(side, image[side])
            image[side] = length
    if "file_name" in image and not (isinstance(image["file_name"], str) and image["file_name"].strip()):
        return _has("file_name", image["file_name"])
    return None


def _normalize_category(category: dict[str, Any]) -> str | None:
    name = category["name"]
    if type(name) in (int, float):
        # Digits and grades are also classes.
        name = json.dumps(name)
    if not isinstance(name, str) or not name.strip():
        return _has("name", name)
    category["name"] = name.strip()
    return None


def _normalize_annotation(
    annotation: dict[str, Any], known: dict[str, tuple[str, set[int | str]]], findings: AnnotationFindings
) -> str | None:
    if "id" in annotation and (fault := _normalize_id(annotation)) is not None:
        return fault
    for key, (where, ids) in known.items():
        value = annotation[key]
        if type(value) not in (int, str) or value not in ids:
            if (own := find_id(value, ids)) is None:
                return _has(key, value) + ("" if id_of(value) is None else f", which is not among the {where}")
            annotation[key] = own
    if "bbox" in annotation:
        bbox = annotation["bbox"]
        numbers = numbers_of(bbox) if isinstance(bbox, list) and len(bbox) == 4 else None
        if numbers is None:
            return _has("bbox", bbox)
        annotation["bbox"] = numbers
    wrong, is_ignored, has_bad_area = unify_marks(annotation)
    if wrong is not None:
        return _has(wrong, annotation[wrong])
    findings.num_ignored += is_ignored
    if has_bad_area:
        # Nothing but the evaluation uses it, and that can compute it.
        findings.bad_areas.append(_label("annotation", "annotations", 0, annotation))
    return None


def _has(key: str, value: Any) -> str:
    return f"has {key} {json.dumps(value)}"


def _label(kind: str, key: str, position: int, entry: Any) -> str:
    if not isinstance(entry, dict) or "id" not in entry:
        return f"{key}[{position}]"
    return f"{kind} {entry['id']}" + (f" of image {entry['image_id']}" if "image_id" in entry else "")
