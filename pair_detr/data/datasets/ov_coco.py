"""OV-COCO: COCO with boxes for 48 base classes, and 17 novel classes that are evaluated as well.

The split is that of "Zero-Shot Object Detection" (arXiv 1804.04340), which open-vocabulary detection uses with both
kinds of classes in one evaluation. 15 of COCO's classes are in neither.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from pair_detr.data.datasets.coco import register_coco
from pair_detr.data.datasets.image_label_json import register_image_labels
from pair_detr.data.datasets.withhold import as_image_labels, category_ids, without_boxes

BASE_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "train", "truck", "boat", "bench", "bird", "horse", "sheep", "bear",
    "zebra", "giraffe", "backpack", "handbag", "suitcase", "frisbee", "skis", "kite", "surfboard", "bottle", "fork",
    "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "pizza", "donut", "chair", "bed",
    "toilet", "tv", "laptop", "mouse", "remote", "microwave", "oven", "toaster", "refrigerator", "book", "clock",
    "vase", "toothbrush",
)  # fmt: skip
NOVEL_CLASSES = (
    "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup", "knife",
    "cake", "couch", "keyboard", "sink", "scissors",
)  # fmt: skip

# Files below DETECTRON2_DATASETS.
TRAIN_FILE = "coco/annotations/ovcoco_train2017_base.json"
VAL_FILE = "coco/annotations/ovcoco_val2017.json"
IMAGE_LABEL_FILE = "coco/annotations/ovcoco_train2017_image_labels.json"

_CATEGORIES = sorted(
    (c for c in COCO_CATEGORIES if c["name"] in {*BASE_CLASSES, *NOVEL_CLASSES}), key=lambda category: category["id"]
)


def register_ov_coco(root: str | Path) -> None:
    """Registers the files that ``pair_detr.tools.make_ov_coco`` writes below the folder ``root``.

    All have the 65 classes in COCO's order. ``ovcoco_2017_train_base`` has boxes of the base classes only,
    ``ovcoco_2017_val`` of all, and ``ovcoco_2017_train_image_labels`` has image labels. ``coco_zeroshot_train`` and
    ``coco_generalized_zeroshot_val``, Detic's names, are the first two.
    """
    folder = Path(root)
    metadata = {
        "thing_classes": [category["name"] for category in _CATEGORIES],
        "novel_classes": list(NOVEL_CLASSES),
        "remedy": 'Run "python -m pair_detr.tools.make_ov_coco"; DETECTRON2_DATASETS names the folder that holds coco.',
    }
    boxes = metadata | {"thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(_CATEGORIES)}}
    for name in ("ovcoco_2017_train_base", "coco_zeroshot_train"):
        register_coco(name, str(folder / TRAIN_FILE), str(folder / "coco" / "train2017"), **boxes)
    for name in ("ovcoco_2017_val", "coco_generalized_zeroshot_val"):
        register_coco(name, str(folder / VAL_FILE), str(folder / "coco" / "val2017"), **boxes)
    register_image_labels(
        "ovcoco_2017_train_image_labels", folder / IMAGE_LABEL_FILE, folder / "coco" / "train2017", **metadata
    )


def training_boxes(instances: dict[str, Any]) -> dict[str, Any]:
    """COCO's training annotations with the boxes of base classes alone, and the images that have some."""
    return _with_images_in_use(without_boxes(_of_split(instances), category_ids(instances, NOVEL_CLASSES)))


def validation_boxes(instances: dict[str, Any]) -> dict[str, Any]:
    """COCO's validation annotations with the boxes of the 65 classes, and the images that have some."""
    return _with_images_in_use(_of_split(instances))


def labels_from_boxes(instances: dict[str, Any]) -> dict[str, Any]:
    """Image labels of the 65 classes, from the classes of the boxes of each image."""
    ids = {category["id"] for category in _CATEGORIES}
    return as_image_labels(_of_split(instances), labels=ids, shown=ids)


def labels_from_captions(captions: dict[str, Any]) -> dict[str, Any]:
    """Image labels of the 65 classes, from their names (or these with s or es) in the image's captions.

    ``captions`` is the content of captions_train2017.json.
    """
    ids = {category["name"]: category["id"] for category in _CATEGORIES}
    # All 80 names: a hot dog is no dog.
    names = "|".join(re.escape(category["name"]) for category in COCO_CATEGORIES if category["isthing"])
    pattern = re.compile(rf"\b({names})(?:e?s)?\b")
    labels: dict[int, set[int]] = defaultdict(set)
    for annotation in captions["annotations"]:
        found = pattern.findall(str(annotation.get("caption") or "").lower())
        labels[annotation["image_id"]].update(ids[name] for name in found if name in ids)
    images = [
        {**image, "pos_category_ids": sorted(labels[image["id"]])}
        for image in captions["images"]
        if labels[image["id"]]
    ]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": [], "categories": categories}


def _of_split(instances: dict[str, Any]) -> dict[str, Any]:
    """The annotations and categories of the 65 classes.

    Raises:
        ValueError: a class is not among the categories.
    """
    ids = category_ids(instances, (*BASE_CLASSES, *NOVEL_CLASSES))
    return {
        **instances,
        "categories": [category for category in instances["categories"] if category["id"] in ids],
        "annotations": [annotation for annotation in instances["annotations"] if annotation["category_id"] in ids],
    }


def _with_images_in_use(content: dict[str, Any]) -> dict[str, Any]:
    used = {annotation["image_id"] for annotation in content["annotations"]}
    return {**content, "images": [image for image in content["images"] if image["id"] in used]}
