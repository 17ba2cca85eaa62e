"""Takes the boxes of some classes from annotations in COCO's format, and gives them back as image labels."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pair_detr.data.datasets.coco_entries import normalize_annotations, normalize_categories, normalize_images
from pair_detr.utils.class_names import normalize_name
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import join_some


def read_annotations(file: str | Path, keys: Sequence[str] = ("images", "annotations", "categories")) -> dict[str, Any]:
    """Content of a file in COCO's format, with its entries in the form of :mod:`pair_detr.data.datasets.coco_entries`.

    Args:
        file: JSON.
        keys: lists that it must have; categories of annotations are not looked at where these are not among them.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or of another format; the message names the entries that are wrong.
    """
    content = read_json(file)
    lists = content if isinstance(content, dict) else {}
    if missing := [key for key in keys if not isinstance(lists.get(key), list)]:
        raise ValueError(
            f"{file} has no {', '.join(missing)}: it does not hold annotations in COCO's format. Give a file that does."
        )
    # Other lists may lack what the tools do not need, as file names are missing in LVIS's.
    faults = normalize_images(content["images"], ("id",))
    references = ["image_id"]
    if "categories" in keys:
        faults += normalize_categories(content["categories"])
        references.append("category_id")
    categories = content["categories"] if "categories" in keys else None
    faults += normalize_annotations(content["annotations"], content["images"], categories, references, False).faults
    if faults:
        raise ValueError(f"{file}: {join_some(faults)}. Correct the file.")
    return content


def category_ids(content: dict[str, Any], class_names: Sequence[str]) -> set[int]:
    """Ids of the categories with these names, up to case, underscores and hyphens.

    Raises:
        ValueError: a name is not among the categories.
    """
    ids = {normalize_name(category["name"]): category["id"] for category in content["categories"]}
    if unknown := [name for name in class_names if normalize_name(name) not in ids]:
        names = [category["name"] for category in content["categories"]]
        raise ValueError(f"{join_some(unknown)} is not among the categories, which are {join_some(names, 100)}")
    return {ids[normalize_name(name)] for name in class_names}


def without_boxes(content: dict[str, Any], withheld: Collection[int]) -> dict[str, Any]:
    """Annotations without those of the categories ``withheld``; images and categories stay as they are."""
    kept = [annotation for annotation in content["annotations"] if annotation["category_id"] not in withheld]
    return {**content, "annotations": kept}


def as_image_labels(content: dict[str, Any], labels: Collection[int], shown: Collection[int]) -> dict[str, Any]:
    """Image labels in place of boxes.

    Args:
        labels: ids of the categories that become labels.
        shown: ids of the categories of which an image must show one to be taken.

    Returns:
        the images with ``pos_category_ids``, sorted ids of the categories that they have annotations of (crowds
        count), without annotations; the categories stay as they are.
    """
    of_image: dict[int, set[int]] = defaultdict(set)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].add(annotation["category_id"])
    images = [
        {**image, "pos_category_ids": sorted(of_image[image["id"]].intersection(labels))}
        for image in content["images"]
        if not of_image[image["id"]].isdisjoint(shown)
    ]
    return {**content, "images": images, "annotations": []}
