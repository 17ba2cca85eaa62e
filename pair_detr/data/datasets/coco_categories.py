"""The classes of a file in COCO's format."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata

from pair_detr.data.datasets.coco_entries import in_order_of_ids
from pair_detr.data.scalars import find_id
from pair_detr.utils.messages import join_some, log_once

logger = logging.getLogger(__name__)

# Values of "supercategory" that say that there is none.
_NONE = ("", "none", "null")
# Roboflow's file of each split, in a folder of its own next to the others.
_ROBOFLOW_FILE = "_annotations.coco.json"
_USES_CATEGORY_0 = re.compile(rb'"category_id"\s*:\s*0\s*[,}]')


def set_classes(metadata: Metadata, content: dict[str, Any], json_file: str) -> dict[int | str, int]:
    """Puts the classes of a file into the metadata of its dataset, in the order of the ids of its categories.

    Args:
        metadata: they get ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``, as from Detectron2. Where they
            have these already, the unused category that :func:`class_categories` leaves out may be among them.

    Returns:
        the class of each category id.

    Raises:
        ValueError: the metadata have other classes.
    """
    classes, categories = class_categories(content), in_order_of_ids(content["categories"])
    known, known_ids = metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
    known_names = None if known is None else [str(name).strip() for name in known]
    if known is None and len(classes) < len(categories) and _other_split_uses_category_0(json_file):
        # The validation images may not show what the training images do; both must have the same classes.
        classes = categories
    for chosen in (classes, categories):
        names = [category["name"] for category in chosen]
        contiguous = {category["id"]: index for index, category in enumerate(chosen)}
        if known_names in (None, names) and (known_ids is None or dict(known_ids) == contiguous):
            if known is None:
                metadata.thing_classes = names
            if known_ids is None:
                metadata.thing_dataset_id_to_contiguous_id = contiguous
            if len(chosen) < len(categories):
                message = (
                    f'{json_file}: category 0, "{categories[0]["name"]}", is not a class: it is the supercategory of '
                    "all others and has no annotations, as in exports of Roboflow. To keep it, name it in the "
                    "metadata's thing_classes."
                )
                log_once(logger, logging.INFO, message)
            return contiguous
    if known_names not in (None, names):
        difference = f"are {join_some(names)}, but thing_classes in the metadata {join_some(known_names)}"
    else:
        difference = f"have the ids {list(contiguous)}, but thing_dataset_id_to_contiguous_id is {dict(known_ids)}"
    raise ValueError(
        f"{json_file}: its categories, in the order of their ids, {difference}. Correct the file or the metadata, or "
        "register the dataset without them: the file has the classes."
    )


def class_categories(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The categories of a file that are classes, in the order of their ids.

    All are, except for a category 0 without annotations that is only the supercategory of all others: Roboflow writes
    one, with the name of the project, into every file.
    """
    categories = in_order_of_ids(content["categories"])
    others = categories[1:]
    if not others or not _is_supercategory(categories[0], others):
        return categories
    annotated = (entry.get("category_id") for entry in content.get("annotations", ()) if isinstance(entry, dict))
    used = any(find_id(own, (categories[0]["id"],)) is not None for own in annotated)
    return categories if used else others


def _is_supercategory(category: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    own, *parents = (str(entry.get("supercategory") or "").strip() for entry in (category, *others))
    return category["id"] in (0, "0") and own.lower() in _NONE and set(parents) == {category["name"]}


def _other_split_uses_category_0(json_file: str) -> bool:
    file = Path(json_file)
    if file.name != _ROBOFLOW_FILE:
        return False
    others = [other for other in file.parent.parent.glob(f"*/{_ROBOFLOW_FILE}") if other.parent != file.parent]
    return any(_USES_CATEGORY_0.search(other.read_bytes()) for other in others)
