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

# Names that say that there is no supercategory.
_NONE = ("", "none", "null")
# Roboflow's file of every split, each in a folder of its own.
_ROBOFLOW_FILE = "_annotations.coco.json"
_USES_ROOT = re.compile(rb'"category_id"\s*:\s*"?0(\.0*)?"?\s*[,}]')


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
    choices = [categories]
    if _has_unused_root(categories, content.get("annotations", ()), json_file):
        choices.insert(0, categories[1:])
    for chosen in choices:
        names = [category["name"] for category in chosen]
        contiguous = {category["id"]: index for index, category in enumerate(chosen)}
        known, known_ids = metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
        if (known is None or list(known) == names) and (known_ids is None or dict(known_ids) == contiguous):
            if known is None:
                metadata.thing_classes = names
            if known_ids is None:
                metadata.thing_dataset_id_to_contiguous_id = contiguous
            if chosen is not categories:
                _log_root(json_file, categories[0]["name"])
            return contiguous
    if known is not None and list(known) != names:
        difference = f"are {join_some(names)}, but thing_classes in the metadata {join_some(list(map(str, known)))}"
    else:
        difference = f"have the ids {list(contiguous)}, but thing_dataset_id_to_contiguous_id is {dict(known_ids)}"
    raise ValueError(
        f"{json_file}: its categories, in the order of their ids, {difference}. Correct the file or the metadata, or "
        "register the data set without them: the file has the classes."
    )


def is_root(category: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Whether a category has the id 0 and is but the supercategory of all others."""
    parent = str(category.get("supercategory") or "").strip()
    return (
        category["id"] in (0, "0")
        and parent.lower() in _NONE
        and len(others) > 0
        and all(str(other.get("supercategory") or "").strip() == category["name"] for other in others)
    )


def _has_unused_root(
    categories: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], json_file: str
) -> bool:
    root, *others = categories
    if not is_root(root, others) or any(annotation["category_id"] == root["id"] for annotation in annotations):
        return False
    # All splits of an export must have the same classes.
    return not any(_uses_root(file, categories) for file in _other_splits(Path(json_file)))


def _other_splits(file: Path) -> list[Path]:
    if file.name != _ROBOFLOW_FILE or not file.is_file():
        return []
    return [other for other in sorted(file.parent.parent.glob(f"*/{_ROBOFLOW_FILE}")) if not other.samefile(file)]


def _uses_root(file: Path, categories: Sequence[dict[str, Any]]) -> bool:
    try:
        if not _USES_ROOT.search(file.read_bytes()):
            return False
        content = read_coco_json(str(file))
    except (OSError, ValueError):
        # It is reported where it is used.
        return False
    names = [category["name"] for category in sorted(content["categories"], key=lambda category: category["id"])]
    return names == [category["name"] for category in categories] and any(
        annotation["category_id"] == categories[0]["id"] for annotation in content.get("annotations", ())
    )


def _log_root(json_file: str, name: str) -> None:
    log_first_n(
        logging.INFO,
        f'{json_file}: category 0, "{name}", is but the supercategory of the others and has no annotation, as in '
        "exports of Roboflow. It is no class; thing_classes in the metadata may name it to keep it.",
        name=__name__,
        key="message",
    )
