"""BCCD has the same boxes and AP in both layouts."""

from pathlib import Path

import pytest
from data_helpers import predict
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode

from pair_detr.data import load_dataset, register_coco, register_voc
from pair_detr.data.datasets.builtin import BCCD_CLASS_NAMES

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def bccd_root(shared_dir: Path) -> Path:
    root = shared_dir / "datasets" / "bccd"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    return root


def register_both_layouts(root: Path, split: str) -> None:
    classes = {"thing_classes": list(BCCD_CLASS_NAMES)}
    register_coco(
        f"json_{split}", str(root / "annotations" / f"bccd_{split}.json"), str(root / "JPEGImages"), **classes
    )
    register_voc(f"xml_{split}", str(root), split, BCCD_CLASS_NAMES)


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137)])
def test_bccd_has_the_same_boxes_in_both_layouts(
    bccd_root: Path, split: str, images: int, boxes: int, caplog: pytest.LogCaptureFixture
) -> None:
    register_both_layouts(bccd_root, split)
    layouts = []
    for name in (f"json_{split}", f"xml_{split}"):
        dicts = load_dataset(name)
        layouts.append(
            {
                record["file_name"]: [
                    (a["category_id"], *BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS))
                    for a in record["annotations"]
                ]
                for record in dicts
            }
        )
    assert layouts[0] == layouts[1]
    assert len(layouts[0]) == images and sum(map(len, layouts[0].values())) == boxes
    assert sum("Dropped 1 such box" in r.getMessage() for r in caplog.records) == 1


def test_bccd_has_the_same_ap_in_both_layouts(bccd_root: Path, tmp_path: Path) -> None:
    register_both_layouts(bccd_root, "val")
    results = []
    for name in ("json_val", "xml_val"):
        evaluator = COCOEvaluator(name, output_dir=str(tmp_path / name))
        evaluator.reset()
        evaluator.process(*predict(load_dataset(name)))
        results.append(evaluator.evaluate()["bbox"])
    assert 10 < results[0]["AP"] < 90
    assert results[0] == results[1]
