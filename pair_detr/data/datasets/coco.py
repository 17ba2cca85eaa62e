"""Datasets in COCO's JSON format."""

import os
from collections.abc import Callable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from detectron2.structures import BoxMode

from pair_detr.data.datasets.coco_categories import set_classes
from pair_detr.data.datasets.coco_json import read_coco_json


def register_coco(name: str, json_file: str, image_root: str, **metadata: Any) -> None:
    """Registers data in COCO's JSON format; nothing is read until the dataset is used, see :func:`load_coco`.

    Args:
        metadata: further entries of the metadata, such as ``thing_classes``, or ``remedy``: what to do where the
            files are missing.
    """
    json_file, image_root = str(json_file), str(image_root)
    DatasetCatalog.register(name, lambda: load_coco(name, json_file, image_root))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def load_coco(name: str, json_file: str, image_root: str) -> list[dict[str, Any]]:
    """Reads images and objects, and puts the classes into the metadata of the dataset ``name``.

    As Detectron2's ``load_coco_json``, but it takes what :func:`pair_detr.data.datasets.coco_json.read_coco_json` does,
    keeps objects whose polygons are of no use, and reads no keypoints.

    Returns:
        the images in Detectron2's standard format, in the order of their ids, without "annotations" if the file has no
        such list. Annotations have ``area`` where the file says it, and ``segmentation`` as it is there, usable or not.

    Raises:
        OSError: the file cannot be read.
        ValueError: it cannot be used, or its classes are not those of the metadata.
    """
    content = read_coco_json(json_file)
    classes = set_classes(MetadataCatalog.get(name), content, json_file)
    records = {
        image["id"]: {
            # Path would take a slash from addresses such as s3://...
            "file_name": os.path.join(image_root, image["file_name"]),  # noqa: PTH118
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    }
    if "annotations" in content:
        for record in records.values():
            record["annotations"] = []
        for annotation in content["annotations"]:
            own = {
                "iscrowd": annotation["iscrowd"],
                "bbox": annotation["bbox"],
                "category_id": classes[annotation["category_id"]],
                "bbox_mode": BoxMode.XYWH_ABS,
            }
            own.update((key, annotation[key]) for key in ("area", "segmentation") if annotation.get(key))
            records[annotation["image_id"]]["annotations"].append(own)
    return list(records.values())


def detectron2_reader(name: str) -> Callable[[], list[dict[str, Any]]] | None:
    """What reads a dataset in COCO's format in place of Detectron2, if Detectron2's functions have registered it.

    These are ``register_coco_instances``, and ``register_coco_panoptic_separated``, whose things are in such a file.
    """
    function, metadata = DatasetCatalog[name], MetadataCatalog.get(name)
    origin = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    if json_file is None or image_root is None:
        # The metadata may have been removed; the function still knows.
        return None
    if origin == ("detectron2.data.datasets.coco", "register_coco_instances.<locals>.<lambda>"):
        return lambda: load_coco(name, str(json_file), str(image_root))
    separated = "register_coco_panoptic_separated.<locals>.<lambda>"
    if origin == ("detectron2.data.datasets.coco_panoptic", separated) and "sem_seg_root" in metadata.as_dict():
        return lambda: merge_to_panoptic(
            load_coco(name, str(json_file), str(image_root)), load_sem_seg(metadata.sem_seg_root, image_root)
        )
    return None
