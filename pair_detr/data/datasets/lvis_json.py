"""Custom data in LVIS's JSON format, as registered by Detectron2's ``register_lvis_instances``.

Detectron2 reads every such file with the classes of LVIS v1 or v0.5, by the name of the dataset, and none of another
name. Here the classes are the categories of the file.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, Metadata
from detectron2.data.datasets import builtin, lvis
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.structures import BoxMode

from pair_detr.data.datasets.coco_entries import (
    ANNOTATION_FIELDS,
    CATEGORY_FIELDS,
    describe_fields,
    in_order_of_ids,
    missing_lists,
    normalize_annotations,
    normalize_categories,
    normalize_images,
)
from pair_detr.data.image_names import is_there
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import join_some

_FIELDS = {"images": ("id", "width", "height"), "categories": CATEGORY_FIELDS, "annotations": ANNOTATION_FIELDS}
_REMEDY = f"Correct the file: {describe_fields(_FIELDS)}; images also need file_name or coco_url."
# Read by Detectron2: their metadata are right, and their files large.
_OFFICIAL = {name for splits in getattr(builtin, "_PREDEFINED_SPLITS_LVIS", {}).values() for name in splits}


def is_own_lvis(name: str) -> bool:
    """Whether somebody has registered a dataset by ``register_lvis_instances``, other than Detectron2 itself."""
    return name not in _OFFICIAL and getattr(DatasetCatalog[name], "__module__", None) == lvis.__name__


def load_own_lvis(metadata: Metadata) -> list[dict[str, Any]]:
    """Reads the file that the metadata name.

    Sets ``thing_classes`` and ``thing_dataset_id_to_contiguous_id`` in the metadata, in the order of the categories'
    ids, and ``class_image_count``, which the federated loss needs; LVIS v1's where the categories are these.

    Returns:
        the images in Detectron2's standard format; those without ``segmentation`` have boxes alone. A file is looked
        for by ``file_name`` and, as LVIS itself has it, by the last two parts of ``coco_url``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, entries lack something or point to nothing, or the metadata have other classes.
    """
    json_file = str(metadata.json_file)
    content = read_json(json_file)
    if faults := _faults_of(content):
        raise ValueError(f"{json_file}: {join_some(faults)}. {_REMEDY}")
    categories = in_order_of_ids(content["categories"])
    classes = _class_metadata(categories, content["annotations"])
    given = metadata.get("thing_classes")
    if given is not None and list(given) != classes["thing_classes"]:
        raise ValueError(
            f"{json_file} has the categories {join_some(classes['thing_classes'], 5)}, but the dataset's "
            f"thing_classes are {join_some(list(given), 5)}: leave these out of the metadata, or correct the file"
        )
    metadata.set(**classes | ({} if given is None else {"thing_classes": given}))
    contiguous = {category["id"]: index for index, category in enumerate(categories)}
    annotations: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(
            {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                **{key: annotation[key] for key in ("iscrowd", "area", "segmentation") if key in annotation},
            }
        )
    return [
        {
            "file_name": _file_of(image, str(metadata.image_root)),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
            "neg_category_ids": image.get("neg_category_ids", []),
            "annotations": annotations[image["id"]],
        }
        for image in content["images"]
    ]


def _class_metadata(categories: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if {c["id"]: c["name"] for c in categories} == {c["id"]: c["name"] for c in LVIS_CATEGORIES}:
        return lvis.get_lvis_instances_meta("lvis_v1")
    images = Counter(category for category, _ in {(a["category_id"], a["image_id"]) for a in annotations})
    counts = {category["id"]: category.get("image_count", images[category["id"]]) for category in categories}
    return {
        "thing_classes": [category["name"] for category in categories],
        "thing_dataset_id_to_contiguous_id": {category["id"]: index for index, category in enumerate(categories)},
        "class_image_count": [{"id": number, "image_count": count} for number, count in counts.items()],
    }


def _file_of(image: dict[str, Any], image_root: str) -> str:
    files = [str(Path(image_root, image["file_name"]))] if "file_name" in image else []
    if "coco_url" in image:
        files.append(str(Path(image_root, *image["coco_url"].split("/")[-2:])))
    return next(filter(is_there, files), files[0])


def _faults_of(content: Any) -> list[str]:
    if faults := missing_lists(content, _FIELDS):
        return faults
    images, categories = content["images"], content["categories"]
    if not categories:
        return ["categories is empty"]
    faults = [*normalize_images(images, _FIELDS["images"]), *normalize_categories(categories)]
    faults += [
        f"images[{position}] has neither file_name nor coco_url"
        for position, image in enumerate(images)
        if isinstance(image, dict) and not image.keys() & {"file_name", "coco_url"}
    ]
    return faults + normalize_annotations(content["annotations"], images, categories).faults
