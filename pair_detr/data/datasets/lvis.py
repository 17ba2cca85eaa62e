"""LVIS v1 with boxes for its 866 frequent and common classes; the 337 rare ones are novel."""

from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_lvis_json
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

# In the order of their ids, which is that of the contiguous ones.
_CATEGORIES = sorted(LVIS_CATEGORIES, key=lambda category: category["id"])
_RARE = {index for index, category in enumerate(_CATEGORIES) if category["frequency"] == "r"}

BASE_NAME = "lvis_v1_train_norare"


def register_lvis_base(root: str | Path) -> None:
    """Registers ``lvis_v1_train_norare`` (Detic's name), LVIS v1's training set without the boxes of rare classes.

    It reads ``lvis/lvis_v1_train.json`` below ``root``; Detic's file of that name is not needed. All 1203 classes are
    in its metadata, with ``class_image_count`` 0 for rare ones. Detectron2's ``lvis_v1_*`` get the synonyms of the
    classes, by which image labels find them.
    """
    json_file, image_root = Path(root) / "lvis" / "lvis_v1_train.json", Path(root) / "coco"
    meta = get_lvis_instances_meta(BASE_NAME)
    meta["class_image_count"] = [
        {**entry, "image_count": 0 if entry["id"] - 1 in _RARE else entry["image_count"]}
        for entry in meta["class_image_count"]
    ]
    synonyms = [category["synonyms"] for category in _CATEGORIES]
    DatasetCatalog.register(BASE_NAME, lambda: load_lvis_base(json_file, image_root))
    MetadataCatalog.get(BASE_NAME).set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="lvis",
        novel_classes=[meta["thing_classes"][index] for index in sorted(_RARE)],
        thing_synonyms=synonyms,
        **meta,
    )
    for name in ("lvis_v1_train", "lvis_v1_val"):
        MetadataCatalog.get(name).thing_synonyms = synonyms


def load_lvis_base(json_file: Path, image_root: Path) -> list[dict[str, Any]]:
    """LVIS v1's annotations without the boxes of rare classes, as Detectron2's ``load_lvis_json`` gives them.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package lvis is not installed.
    """
    if not json_file.is_file():
        raise FileNotFoundError(f"there is no {json_file}")
    # A folder must end with a slash there.
    dicts = load_lvis_json(str(json_file), f"{image_root}/")
    for record in dicts:
        record["annotations"] = [a for a in record["annotations"] if a["category_id"] not in _RARE]
    return dicts
