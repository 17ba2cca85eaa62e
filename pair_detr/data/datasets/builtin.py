"""Registers the project's own datasets where Detectron2 looks for its own; nothing is read before it is used."""

from pathlib import Path

from detectron2.data import DatasetCatalog

from pair_detr.data.catalog import datasets_root
from pair_detr.data.datasets.coco import register_coco
from pair_detr.data.datasets.lvis import register_lvis_base
from pair_detr.data.datasets.open_shapes import register_open_shapes
from pair_detr.data.datasets.ov_coco import register_ov_coco
from pair_detr.data.datasets.panoptic_shapes import register_panoptic_shapes
from pair_detr.data.datasets.pascal_voc import register_voc
from pair_detr.data.datasets.shapes import register_shapes

BCCD_CLASS_NAMES = ("RBC", "WBC", "Platelets")


def register_bccd(root: str) -> None:
    """Registers the blood cells of BCCD, once by its COCO JSON files and once by its Pascal VOC files.

    Both have the same boxes and classes; ``bccd_train`` and ``bccd_voc_train`` differ in their ``image_id`` alone.
    """
    folder = Path(root)
    remedy = (
        "Set the environment's DETECTRON2_DATASETS to the folder that holds bccd; the first lines of "
        "configs/bases/bccd.yaml say where its files come from, and how to make those that are missing."
    )
    for split in ("train", "val"):
        register_coco(
            f"bccd_{split}",
            str(folder / "annotations" / f"bccd_{split}.json"),
            str(folder / "JPEGImages"),
            thing_classes=list(BCCD_CLASS_NAMES),
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(BCCD_CLASS_NAMES))},
            remedy=remedy,
        )
        register_voc(f"bccd_voc_{split}", str(folder), split, BCCD_CLASS_NAMES, remedy=remedy)


_root = datasets_root()
for _prefix, _register, _folder in (
    ("bccd", register_bccd, str(_root / "bccd")),
    ("shapes", register_shapes, str(_root / "shapes")),
    ("open_shapes", register_open_shapes, _root / "open_shapes"),
    ("panoptic_shapes", register_panoptic_shapes, _root / "shapes"),
    ("ovcoco", register_ov_coco, _root),
    ("lvis_v1_train_norare", register_lvis_base, _root),
):
    # Names that the user has given to data of his own before stay his.
    if not any(name.startswith(_prefix) for name in DatasetCatalog):
        _register(_folder)
