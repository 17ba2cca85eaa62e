"""Data sets in COCO's JSON format, checked before Detectron2 and pycocotools read them."""

import json
from collections import Counter, defaultdict
from numbers import Real
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from pair_detr.data.degenerate import is_box
from pair_detr.data.masks import MaskFault, polygon_fault, rle_fault
from pair_detr.data.messages import join_some

# The lists of a file in the order in which they are checked, and what every entry needs.
_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
_REMEDY = "Correct the file: " + "; ".join(
    f"every entry of {key} needs {', '.join(fields)}" for key, fields in _FIELDS.items()
)


def register_coco(name: str, json_file: str, image_root: str, **metadata: Any) -> None:
    """Registers data in COCO's JSON format; nothing is read until the data set is used.

    Detectron2 leaves out polygons with less than three points or half a point, and objects that have no other. Images
    list them under ``bad_polygons``.

    Args:
        name: name in the catalogs.
        json_file: annotations.
        image_root: folder of the images.
        metadata: further entries of the metadata, such as ``thing_classes``, or ``remedy``: what to do where the
            files are missing.
    """
    json_file, image_root = str(json_file), str(image_root)

    def load() -> list[dict[str, Any]]:
        content = check_coco_json(json_file)
        records = load_coco_json(json_file, image_root, name)
        bad_polygons = _bad_polygons(content)
        return [
            record | {"bad_polygons": [MaskFault(record["file_name"], *fault) for fault in faults]}
            if (faults := bad_polygons.get(record["image_id"]))
            else record
            for record in records
        ]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def check_coco_json(json_file: str) -> dict[str, Any]:
    """Makes sure that a file can be loaded: pycocotools would fail without saying where, or leave annotations out.

    Returns:
        what the file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or entries lack something or point to nothing; the message names them.
    """
    with PathManager.open(json_file) as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{json_file} is not valid JSON ({error}). Correct or replace the file.") from error
    if faults := _faults_of(content):
        raise ValueError(f"{json_file}: {join_some(faults)}. {_REMEDY} (bbox is [x, y, width, height] in pixels).")
    return content


def _bad_polygons(content: dict[str, Any]) -> dict[int | str, list[tuple[int, str]]]:
    """By image, the position of annotations with polygons that Detectron2 leaves out, and what is wrong with these."""
    positions: Counter[int | str] = Counter()
    bad: dict[int | str, list[tuple[int, str]]] = defaultdict(list)
    for annotation in content.get("annotations", ()):
        image, segmentation = annotation["image_id"], annotation.get("segmentation")
        if isinstance(segmentation, list):
            faults = (polygon_fault(polygon) for polygon in segmentation)
            bad[image].extend((positions[image], fault) for fault in faults if fault)
        positions[image] += 1
    return bad


def _faults_of(content: Any) -> list[str]:
    if not isinstance(content, dict):
        return [f"it holds a {type(content).__name__}, not an object"]
    # Files of test images have no annotations.
    lists = {"annotations": []} | {key: content[key] for key in _FIELDS if key in content}
    if faults := [f'there is no list "{key}" in it' for key in _FIELDS if not isinstance(lists.get(key), list)]:
        return faults
    if not lists["categories"]:
        return ["categories is empty"]
    faults = []
    ids: dict[str, set[int | str]] = {key: set() for key in _FIELDS}
    for key, fields in _FIELDS.items():
        for position, entry in enumerate(lists[key]):
            fault = _fault_of(entry, fields, ids)
            if fault is None and entry["id"] in ids[key]:
                fault = "occurs more than once"
            if fault is None:
                ids[key].add(entry["id"])
            else:
                faults.append(f"{_label(key, position, entry)} {fault}")
    return faults


def _fault_of(entry: Any, fields: tuple[str, ...], ids: dict[str, set[int | str]]) -> str | None:
    if not isinstance(entry, dict):
        return "is not an object"
    if missing := [field for field in fields if field not in entry]:
        return f"has no {', '.join(missing)}"
    for field in fields:
        value = entry[field]
        if field == "bbox":
            good = is_box(value)
        elif field in ("width", "height"):
            good = isinstance(value, Real) and value > 0
        else:
            good = isinstance(value, (int, str))
        if not good:
            return f"has {field} {json.dumps(value)}"
    if (fault := _segmentation_fault(entry.get("segmentation"))) is not None:
        return f"has {fault}"
    for field, key in (("image_id", "images"), ("category_id", "categories")):
        if field in fields and entry[field] not in ids[key]:
            return f"has {field} {json.dumps(entry[field])}, which is not among the {key}"
    return None


def _segmentation_fault(segmentation: Any) -> str | None:
    """What Detectron2 and pycocotools would fail on; polygons with too few numbers are left to Detectron2."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return rle_fault(segmentation)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return "a segmentation that is neither a list of polygons nor run lengths"
    return None


def _label(key: str, position: int, entry: Any) -> str:
    if not isinstance(entry, dict) or "id" not in entry:
        return f"{key}[{position}]"
    name = {"images": "image", "categories": "category", "annotations": "annotation"}[key] + f" {entry['id']}"
    return f"{name} of image {entry['image_id']}" if "image_id" in entry else name
