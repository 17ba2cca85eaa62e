"""The classes of a file in COCO's format."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata
from detectron2.utils.logger import log_first_n

from pair_detr.data.coco_json import read_coco_json
from pair_detr.data.messages import join_some
from pair_detr.data.scalars import find_id

# Names that say that there is no supercategory.
_NONE = ("", "none", "null")
# Roboflow's file of every split, each in a folder of its own.
_ROBOFLOW_FILE = "_annotations.coco.json"
_USES_ZERO = re.compile(rb'"category_id"\s*:\s*"?0(\.0*)?"?\s*[,}]')


def set_classes(metadata: Metadata, content: dict[str, Any], json_file: str) -> dict[int | str, int]:
    """Puts the classes of a file into the metadata of its data set, in the order of the ids of its categories.

    An unused category 0 that is but the supercategory of the others, as in exports of Roboflow, is no class unless the
    metadata have it in their ``thing_classes``.

    Args:
        metadata: they get ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``, as from Detectron2.
        content: as of :func:`pair_detr.data.coco_json.read_coco_json`.
        json_file: it is of.

    Returns:
        the class of each category id.

    Raises:
        ValueError: the metadata have other classes.
    """
    categories = sorted(content["categories"], key=lambda category: category["id"])
    classes = class_categories(content, json_file)
    known, known_ids = metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
    known_names = None if known is None else [str(name).strip() for name in known]
    for chosen in (classes, categories):
        names = [category["name"] for category in chosen]
        contiguous = {category["id"]: index for index, category in enumerate(chosen)}
        if (known is None or known_names == names) and (known_ids is None or dict(known_ids) == contiguous):
            if known is None:
                metadata.thing_classes = names
            if known_ids is None:
                metadata.thing_dataset_id_to_contiguous_id = contiguous
            if len(chosen) < len(categories):
                _log_root(json_file, categories[0]["name"])
            return contiguous
    if known_names not in (None, names):
        difference = f"are {join_some(names)}, but thing_classes in the metadata {join_some(known_names)}"
    else:
        difference = f"have the ids {list(contiguous)}, but thing_dataset_id_to_contiguous_id is {dict(known_ids)}"
    raise ValueError(
        f"{json_file}: its categories, in the order of their ids, {difference}. Correct the file or the metadata, or "
        "register the data set without them: the file has the classes."
    )


def class_categories(content: dict[str, Any], json_file: str) -> list[dict[str, Any]]:
    """The categories of a file that are classes, in the order of their ids.

    Args:
        content: with "categories", in the form of :mod:`pair_detr.data.coco_entries`, and "annotations" if there are.
        json_file: it is of.
    """
    root, *others = categories = sorted(content["categories"], key=lambda category: category["id"])
    if not _is_root(root, others) or _uses(content, root["id"]):
        return categories
    # All splits of an export must have the same classes.
    used = any(_is_used_in(file, root, len(categories)) for file in _other_splits(Path(json_file)))
    return categories if used else others


def _is_root(category: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Whether a category has the id 0 and is but the supercategory of all others."""
    parents = [str(entry.get("supercategory") or "").strip() for entry in (category, *others)]
    return (
        category["id"] in (0, "0")
        and parents[0].lower() in _NONE
        and len(others) > 0
        and set(parents[1:]) == {category["name"]}
    )


def _uses(content: dict[str, Any], category_id: int | str) -> bool:
    return any(
        find_id(entry.get("category_id"), (category_id,)) is not None for entry in content.get("annotations", ())
    )


def _other_splits(file: Path) -> list[Path]:
    if file.name != _ROBOFLOW_FILE or not file.is_file():
        return []
    return [other for other in sorted(file.parent.parent.glob(f"*/{_ROBOFLOW_FILE}")) if not other.samefile(file)]


def _is_used_in(file: Path, root: dict[str, Any], num_categories: int) -> bool:
    try:
        if not _USES_ZERO.search(file.read_bytes()):
            return False
        content = read_coco_json(str(file))
    except (OSError, ValueError):
        # It is reported where it is used itself.
        return False
    return (
        len(content["categories"]) == num_categories
        and any(category["name"] == root["name"] for category in content["categories"])
        and _uses(content, root["id"])
    )


def _log_root(json_file: str, name: str) -> None:
    log_first_n(
        logging.INFO,
        f'{json_file}: category 0, "{name}", is but the supercategory of the others and has no annotation, as in '
        "exports of Roboflow. It is no class; thing_classes in the metadata may name it to keep it.",
        name=__name__,
        key="message",
    )
