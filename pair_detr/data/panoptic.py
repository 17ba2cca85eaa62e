"""Panoptic data: registration, and annotations with masks from Detectron2's standard and separated forms.

In the standard form an image's segments are listed with their boxes, and drawn in a PNG file. In the separated form
instances are annotated as for detection, and a second PNG file has the classes of stuff.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from pair_detr.data.coco_entries import normalize_categories, normalize_images
from pair_detr.data.degenerate import is_box
from pair_detr.data.json_files import read_json
from pair_detr.data.messages import join_some
from pair_detr.data.panoptic_classes import is_separated
from pair_detr.data.scalars import find_id, flag_of

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
        OSError, ValueError: the file with the images' sizes cannot be read.
    """
    if not records:
        return records
    if "pan_seg_file_name" in records[0]:
        sizes = {}
        if any("height" not in record or "width" not in record for record in records):
            images = read_json(metadata.panoptic_json).get("images", ())
            sizes = {image["id"]: {key: image[key] for key in ("height", "width")} for image in images}
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


def mask_file(record: dict[str, Any]) -> str | None:
    """The PNG file of a panoptic image of :func:`complete_records`, None of others."""
    return record.get("pan_seg_file_name") or (record["sem_seg_file_name"] if "first_stuff_class" in record else None)


def annotate(record: dict[str, Any], masks: bool) -> dict[str, Any]:
    """Annotations of an image of :func:`complete_records`, completed from its PNG file.

    Args:
        record: any image, not changed.
        masks: whether masks are needed; boxes of the standard form do without the file.

    Returns:
        a copy in the form that detection has. Annotations of the standard form have masks, and the boxes of these; in
        the separated form there is one a class of stuff beside the instances. Annotations of an image that is not
        panoptic stay as they are.

    Raises:
        OSError: the file cannot be read; the message names it.
        ValueError: it is of another size than the image is said to be.
    """
    annotations = record.get("annotations", ())
    if "first_stuff_class" in record:
        stuff, first = _read(record["sem_seg_file_name"], "L", record), record["first_stuff_class"]
        present = [value for value in np.unique(stuff).tolist() if value not in (_THINGS, _IGNORED)]
        annotations = [*annotations, *(_with_mask({}, stuff == v, category_id=first + v - 1) for v in present)]
    elif "pan_seg_file_name" in record and masks:
        ids = rgb_to_id(_read(record["pan_seg_file_name"], "RGB", record))
        annotations = [_with_mask(a, ids == a["segment_id"]) for a in annotations]
    return {key: value for key, value in record.items() if key not in _KEYS_OF_FILES} | {"annotations": annotations}


def rgb_to_id(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 colours of a panoptic PNG file to (H, W) ids of segments: R + 256 G + 256^2 B."""
    return pixels.astype(np.int32) @ np.array([1, 256, 256**2], dtype=np.int32)


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


def _read(file: str, mode: str, record: dict[str, Any]) -> np.ndarray:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert(mode))
    except (OSError, SyntaxError, EOFError) as error:
        raise OSError(
            f"{file}, which has the segments of {record['file_name']}, cannot be read ({type(error).__name__}: "
            f"{error}). Restore the file, or remove the image from the data set."
        ) from error
    height, width = pixels.shape[:2]
    expected = record.get("width", width), record.get("height", height)
    if (width, height) != expected:
        raise ValueError(
            f"{file} has {width}x{height} pixels, but its image {record['file_name']} {expected[0]}x{expected[1]}. "
            "Replace the file that is wrong."
        )
    return pixels


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
    faults = faults or [*normalize_images(content["images"]), *normalize_categories(content["categories"])]
    faults += [
        f"category {category['id']} has isthing {category['isthing']!r}"
        for category in content["categories"]
        if not faults and flag_of(category["isthing"]) is None
    ]
    if faults:
        return faults
    images, categories = ({entry["id"] for entry in content[key]} for key in ("images", "categories"))
    for annotation in content["annotations"]:
        label = f"image {annotation['image_id']}"
        if (image_id := find_id(annotation["image_id"], images)) is None:
            faults.append(f"{label} is annotated, but not among the images")
        annotation["image_id"] = image_id
        for segment in annotation["segments_info"]:
            if missing := [field for field in _SEGMENT_FIELDS if field not in segment]:
                faults.append(f"a segment of {label} has no {', '.join(missing)}")
            elif (category_id := find_id(segment["category_id"], categories)) is None:
                faults.append(f"segment {segment['id']} of {label} has category_id {segment['category_id']!r}")
            elif not is_box(segment["bbox"]):
                faults.append(f"segment {segment['id']} of {label} has bbox {segment['bbox']!r}")
            else:
                segment["category_id"] = category_id
    return faults
