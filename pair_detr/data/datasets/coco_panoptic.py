"""Panoptic data: registration, and records of Detectron2's standard and separated forms.

In the standard form an image's segments are listed with their boxes, and drawn in a PNG file. In the separated form
instances are annotated as for detection, and a second PNG file has the classes of stuff.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode

from pair_detr.data.checks.invalid_boxes import is_box
from pair_detr.data.datasets.coco_entries import (
    IMAGE_FIELDS,
    missing_fields,
    missing_lists,
    normalize_categories,
    normalize_images,
)
from pair_detr.data.datasets.panoptic_classes import is_separated
from pair_detr.data.datasets.panoptic_png import MAX_SEGMENT_ID
from pair_detr.data.scalars import find_id, flag_of, integer_of
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import join_some

# What the standard form's entries need.
_FIELDS = {
    "images": IMAGE_FIELDS,
    "categories": ("id", "name", "isthing"),
    "annotations": ("image_id", "file_name", "segments_info"),
}
_SEGMENT_FIELDS = ("id", "category_id", "bbox")
_REMEDY = (
    "Correct the file: it needs "
    + "; ".join(f"{key} with {', '.join(fields)}" for key, fields in _FIELDS.items())
    + f"; segments_info with {', '.join(_SEGMENT_FIELDS)} (bbox is [x, y, width, height] in pixels)."
)


def register_coco_panoptic(
    name: str, json_file: str, panoptic_root: str, image_root: str, instances_json: str | None = None, **metadata: Any
) -> None:
    """Registers data in COCO's panoptic format in Detectron2's standard form; nothing is read until they are used.

    Classes are the JSON file's categories, things first, each part in the order of ids.

    Args:
        json_file: segments and categories.
        panoptic_root: folder of the PNG files.
        instances_json: the things in COCO's format for detection, if AP is also to be evaluated.
        metadata: further entries of the metadata, such as ``remedy``: what to do where the files are missing.
    """
    json_file, panoptic_root, image_root = str(json_file), str(panoptic_root), str(image_root)

    def load() -> list[dict[str, Any]]:
        content = read_json(json_file)
        if faults := _faults_of(content):
            raise ValueError(f"{json_file}: {join_some(faults)}. {_REMEDY}")
        classes = class_metadata(content["categories"])
        MetadataCatalog.get(name).set(**classes)
        # Detectron2's loader takes images to be JPEG files with the names of the PNG files.
        ids = {**classes["thing_dataset_id_to_contiguous_id"], **classes["stuff_dataset_id_to_contiguous_id"]}
        images = {image["id"]: image for image in content["images"]}
        _note_unannotated(MetadataCatalog.get(name), content)
        return [
            {
                "file_name": str(Path(image_root, image["file_name"])),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "pan_seg_file_name": str(Path(panoptic_root, annotation["file_name"])),
                "segments_info": [
                    {
                        **segment,
                        "category_id": ids[segment["category_id"]],
                        "isthing": segment["category_id"] in classes["thing_dataset_id_to_contiguous_id"],
                    }
                    for segment in annotation["segments_info"]
                ],
            }
            for annotation in content["annotations"]
            for image in (images[annotation["image_id"]],)
        ]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        panoptic_json=json_file,
        panoptic_root=panoptic_root,
        image_root=image_root,
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        label_divisor=1000,
        **({} if instances_json is None else {"json_file": str(instances_json)}),
        **metadata,
    )


def complete_records(records: list[dict[str, Any]], metadata: Metadata) -> list[dict[str, Any]]:
    """Gives panoptic images what training on them needs beyond Detectron2's forms; others stay as they are.

    Those of the standard form get "annotations", a box per segment, and their size; those of the separated form
    "first_stuff_class", the class of stuff 1.

    Raises:
        OSError: the file with the images' sizes cannot be read.
        ValueError: nor understood; or segments of an image have the same id, or one that no pixel can have.
    """
    if not records:
        return records
    if "pan_seg_file_name" in records[0]:
        sizes, ids = {}, {record["image_id"] for record in records}
        if any("height" not in record or "width" not in record for record in records):
            content = read_json(metadata.panoptic_json)
            # Detectron2's ids are numbers, whatever the file has.
            sizes = {find_id(i["id"], ids): {key: i[key] for key in ("height", "width")} for i in content["images"]}
            _note_unannotated(metadata, content)
        records = _with_segment_ids(records)
        return [
            {
                **sizes.get(record["image_id"], {}),
                **record,
                "annotations": [_box_annotation(segment) for segment in record["segments_info"]],
            }
            for record in records
        ]
    if "sem_seg_file_name" in records[0] and is_separated(metadata):
        first = len(metadata.thing_classes)
        return [{**record, "first_stuff_class": first} for record in records]
    return records


def unannotated_images(metadata: Metadata) -> list[str]:
    """Images of the JSON file of a dataset in the standard form that no entry has segments for; known once loaded."""
    return metadata.get("unannotated_images") or []


def _note_unannotated(metadata: Metadata, content: dict[str, Any]) -> None:
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    if "unannotated_images" in metadata.as_dict():
        # Metadata refuse another value, but files change.
        del metadata.unannotated_images
    metadata.unannotated_images = [image["file_name"] for image in content["images"] if image["id"] not in annotated]


def _with_segment_ids(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Images whose segments have ints as ids, which a pixel can have and none other of the image has."""
    completed, faults = [], []
    for record in records:
        segments = [{**segment, "id": integer_of(segment["id"])} for segment in record["segments_info"]]
        label = f"of image {record['image_id']} ({record['file_name']})"
        faults += [
            f"a segment {label} has the id {given['id']!r}"
            for given, segment in zip(record["segments_info"], segments, strict=True)
            if segment["id"] is None or not 0 < segment["id"] <= MAX_SEGMENT_ID
        ]
        counts = Counter(segment["id"] for segment in segments)
        faults += [f"{count} segments {label} have the id {own}" for own, count in counts.items() if count > 1]
        completed.append({**record, "segments_info": segments})
    if faults:
        raise ValueError(
            f"{join_some(faults)}. Give each segment of an image a whole number of its own, from 1 to "
            f"{MAX_SEGMENT_ID}, in the JSON file and in the PNG file; pixels of 0 are of no segment."
        )
    return completed


def _box_annotation(segment: dict[str, Any]) -> dict[str, Any]:
    return {
        "bbox": segment.get("bbox"),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": segment["category_id"],
        "iscrowd": segment.get("iscrowd", 0),
        "segment_id": segment["id"],
    }


def class_metadata(categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What Detectron2's metadata say of classes in the standard form, things first, each part in the order of ids.

    Args:
        categories: with "id", "name" and "isthing".
    """
    things = {category["id"] for category in categories if flag_of(category["isthing"])}
    ordered = sorted(categories, key=lambda category: (category["id"] not in things, category["id"]))
    names = [category["name"] for category in ordered]
    return {
        # Detectron2 has both lists complete in this form.
        "thing_classes": names,
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(ordered) if c["id"] in things},
        "stuff_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(ordered) if c["id"] not in things},
    }


def _faults_of(content: Any) -> list[str]:
    if faults := missing_lists(content, _FIELDS):
        return faults
    faults = [
        f"{key}[{position}] {fault}"
        for key, fields in _FIELDS.items()
        for position, entry in enumerate(content[key])
        if (fault := missing_fields(entry, fields)) is not None
    ]
    faults = faults or [*normalize_images(content["images"]), *normalize_categories(content["categories"])]
    faults += [
        f"category {category['id']} has isthing {category['isthing']!r}"
        for category in content["categories"]
        if not faults and flag_of(category["isthing"]) is None
    ]
    if faults:
        return faults
    images, categories = ({entry["id"] for entry in content[key]} for key in ("images", "categories"))
    annotated = set()
    for annotation in content["annotations"]:
        label = f"image {annotation['image_id']}"
        if not isinstance(annotation["file_name"], str) or not isinstance(annotation["segments_info"], list):
            faults.append(f"the annotation of {label} has no file_name, or no list segments_info")
            continue
        if (image_id := find_id(annotation["image_id"], images)) is None:
            faults.append(f"{label} is annotated, but not among the images")
        elif image_id in annotated:
            faults.append(f"{label} is annotated twice")
        annotated.add(image_id)
        annotation["image_id"] = image_id
        for segment in annotation["segments_info"]:
            if (missing := missing_fields(segment, _SEGMENT_FIELDS)) is not None:
                faults.append(f"a segment of {label} {missing}")
            elif flag_of(segment.get("iscrowd")) is None:
                faults.append(f"segment {segment['id']} of {label} has iscrowd {segment['iscrowd']!r}, not 0 or 1")
            elif (category_id := find_id(segment["category_id"], categories)) is None:
                faults.append(f"segment {segment['id']} of {label} has category_id {segment['category_id']!r}")
            elif not is_box(segment["bbox"]):
                faults.append(f"segment {segment['id']} of {label} has bbox {segment['bbox']!r}")
            else:
                segment["category_id"] = category_id
    return faults
