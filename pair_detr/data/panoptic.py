"""Panoptic data: registration, and annotations with masks from Detectron2's standard and separated forms.

In the standard form an image's segments are listed with their boxes, and drawn in a PNG file. In the separated form
instances are annotated as for detection, and a second PNG file has the classes of stuff.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from pair_detr.data.degenerate import is_box
from pair_detr.data.json_files import read_json
from pair_detr.data.messages import join_some
from pair_detr.data.panoptic_classes import is_separated
from pair_detr.data.panoptic_files import MAX_SEGMENT_ID, read_segment_ids, read_stuff

logger = logging.getLogger(__name__)

# What the standard form's entries need.
_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name", "isthing"),
    "annotations": ("image_id", "file_name", "segments_info"),
}
_SEGMENT_FIELDS = ("id", "category_id", "bbox")
# Values of the separated form's PNG files that are no stuff.
_THINGS, _IGNORED = 0, 255
# Detectron2's mapper would read a file for a semantic model.
_KEYS_OF_FILES = ("pan_seg_file_name", "sem_seg_file_name", "segments_info", "first_stuff_class")
_NAMED = 5
# Files that a warning of this process has named.
_warned: set[str] = set()
_MAX_WARNINGS = 20


def register_coco_panoptic(
    name: str, json_file: str, panoptic_root: str, image_root: str, instances_json: str | None = None, **metadata: Any
) -> None:
    """Registers data in COCO's panoptic format in Detectron2's standard form; nothing is read until they are used.

    Classes are the JSON file's categories, things first, each part in the order of ids.

    Args:
        name: name in the catalogs.
        json_file: segments and categories.
        panoptic_root: folder of the PNG files.
        image_root: folder of the images.
        instances_json: the things in COCO's format for detection, if AP is to be evaluated, too.
        metadata: further entries of the metadata, such as ``remedy``: what to do where the files are missing.
    """
    json_file, panoptic_root, image_root = str(json_file), str(panoptic_root), str(image_root)

    def load() -> list[dict[str, Any]]:
        content = read_json(json_file)
        _check(content, json_file)
        classes = class_metadata(content["categories"])
        MetadataCatalog.get(name).set(**classes)
        # Detectron2's loader takes images to be JPEG files with the names of the PNG files.
        ids = {**classes["thing_dataset_id_to_contiguous_id"], **classes["stuff_dataset_id_to_contiguous_id"]}
        images = {image["id"]: image for image in content["images"]}
        _note_unannotated(MetadataCatalog.get(name), content)
        return [
            {
                "file_name": str(Path(image_root, images[annotation["image_id"]]["file_name"])),
                "image_id": annotation["image_id"],
                "height": images[annotation["image_id"]]["height"],
                "width": images[annotation["image_id"]]["width"],
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

    Those of the standard form get "annotations", a box a segment, and their size; those of the separated form
    "first_stuff_class", the class of stuff 1.

    Raises:
        OSError: the file with the images' sizes cannot be read.
        ValueError: nor understood; or segments of an image have the same id, or one that no pixel can have.
    """
    if not records:
        return records
    if "pan_seg_file_name" in records[0]:
        _check_ids(records)
        sizes = {}
        if any("height" not in record or "width" not in record for record in records):
            content = read_json(metadata.panoptic_json)
            sizes = {image["id"]: {key: image[key] for key in ("height", "width")} for image in content["images"]}
            _note_unannotated(metadata, content)
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
    """Images of the JSON file of a data set in the standard form that no entry has segments for; known once loaded."""
    return metadata.get("unannotated_images") or []


def _note_unannotated(metadata: Metadata, content: dict[str, Any]) -> None:
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    if "unannotated_images" in metadata.as_dict():
        # Metadata refuse another value, but files change.
        del metadata.unannotated_images
    metadata.unannotated_images = [image["file_name"] for image in content["images"] if image["id"] not in annotated]


def _check_ids(records: list[dict[str, Any]]) -> None:
    faults = []
    for record in records:
        ids = [segment["id"] for segment in record["segments_info"]]
        label = f"of image {record['image_id']} ({record['file_name']})"
        faults += [f"{count} segments {label} have the id {own!r}" for own, count in Counter(ids).items() if count > 1]
        faults += [
            f"a segment {label} has the id {own!r}"
            for own in ids
            if not isinstance(own, int) or not 0 < own <= MAX_SEGMENT_ID
        ]
    if faults:
        raise ValueError(
            f"{join_some(faults)}. Give each segment of an image a whole number of its own, from 1 to "
            f"{MAX_SEGMENT_ID}, in the JSON file and in the PNG file; pixels of 0 are of no segment."
        )


def mask_file(record: dict[str, Any]) -> str | None:
    """The PNG file of a panoptic image of :func:`complete_records`, None of others."""
    return record.get("pan_seg_file_name") or (record["sem_seg_file_name"] if "first_stuff_class" in record else None)


def annotate(record: dict[str, Any], masks: bool) -> dict[str, Any]:
    """Annotations of an image of :func:`complete_records`, completed from its PNG file.

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
        OSError, ValueError: as of :func:`annotate`.
    """
    if "pan_seg_file_name" not in record:
        return []
    present = set(np.unique(read_mask_file(record)).tolist())
    return [segment["id"] for segment in record["segments_info"] if segment["id"] not in present]


def read_mask_file(record: dict[str, Any]) -> np.ndarray | None:
    """(H, W) segment or class of stuff of each pixel, as the PNG file of an image has them; None of other images.

    Raises:
        OSError, ValueError: as of :func:`annotate`.
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


def _box_annotation(segment: dict[str, Any]) -> dict[str, Any]:
    return {
        "bbox": segment.get("bbox"),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": segment["category_id"],
        "iscrowd": segment.get("iscrowd", 0),
        "segment_id": segment["id"],
    }


def _with_mask(annotation: dict[str, Any], mask: np.ndarray, **changes: Any) -> dict[str, Any]:
    segmentation = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    box = {"bbox": mask_util.toBbox(segmentation).tolist(), "bbox_mode": BoxMode.XYWH_ABS}
    return {"iscrowd": 0, **annotation, **box, "segmentation": segmentation, **changes}


def class_metadata(categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What Detectron2's metadata say of classes in the standard form, things first, each part in the order of ids.

    Args:
        categories: with "id", "name" and "isthing".
    """
    ordered = sorted(categories, key=lambda category: (not category["isthing"], category["id"]))
    names = [category["name"] for category in ordered]
    return {
        # Detectron2 has both lists complete in this form.
        "thing_classes": names,
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(ordered) if c["isthing"]},
        "stuff_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(ordered) if not c["isthing"]},
    }


def _check(content: Any, json_file: str) -> None:
    if faults := _faults_of(content):
        raise ValueError(
            f"{json_file}: {join_some(faults)}. Correct the file: it needs "
            + "; ".join(f"{key} with {', '.join(fields)}" for key, fields in _FIELDS.items())
            + f"; segments_info with {', '.join(_SEGMENT_FIELDS)} (bbox is [x, y, width, height] in pixels)."
        )


def _faults_of(content: Any) -> list[str]:
    if not isinstance(content, dict):
        return [f"it holds a {type(content).__name__}, not an object"]
    if faults := [f'there is no list "{key}" in it' for key in _FIELDS if not isinstance(content.get(key), list)]:
        return faults
    faults = [
        f"{key}[{position}] has no {', '.join(missing)}"
        for key, fields in _FIELDS.items()
        for position, entry in enumerate(content[key])
        if (missing := [field for field in fields if field not in entry])
    ]
    if faults:
        return faults
    images, categories = ({entry["id"] for entry in content[key]} for key in ("images", "categories"))
    for annotation in content["annotations"]:
        label = f"image {annotation['image_id']}"
        if annotation["image_id"] not in images:
            faults.append(f"{label} is annotated, but not among the images")
        for segment in annotation["segments_info"]:
            if missing := [field for field in _SEGMENT_FIELDS if field not in segment]:
                faults.append(f"a segment of {label} has no {', '.join(missing)}")
            elif segment["category_id"] not in categories:
                faults.append(f"segment {segment['id']} of {label} has category_id {segment['category_id']!r}")
            elif not is_box(segment["bbox"]):
                faults.append(f"segment {segment['id']} of {label} has bbox {segment['bbox']!r}")
    return faults
