"""AP of the things of panoptic data; each remedy that a message about panoptic data names helps."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import needs_panopticapi, write_image
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Instances
from panoptic_helpers import (
    BOXES,
    COCO,
    assert_by_hand,
    average_precision,
    cfg_for,
    detections,
    edit,
    quality,
    register,
    things_alone,
    write_things,
)
from PIL import Image

from pair_detr.evaluation.build import build_evaluator, require_test_set

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.mark.parametrize("stuff", [True, False])
@pytest.mark.parametrize("model", [{}, {"MODEL__DETR__PANOPTIC__ENABLED": False}, BOXES])
def test_ap_of_the_segments_of_things(tmp_path: Path, stuff: bool, model: dict[str, Any]) -> None:
    """The remedy TEST.EVALUATOR coco of several messages, for any model."""
    paths = register(tmp_path / "data")
    if not stuff:
        things_alone(paths)
        # An image without things has no pixels either.
        Image.new("RGB", (48, 32)).save(paths["SEGMENTS"] / "seg12.png")
    results = average_precision(cfg_for("own", tmp_path / "out", **model, **COCO), "own")
    assert set(results) == ({"bbox"} if model is BOXES else {"bbox", "segm"})
    assert all(metrics["AP"] == pytest.approx(100) for metrics in results.values())
    (file,) = (tmp_path / "out").rglob("coco_instances_results.json")
    assert {x["category_id"] for x in json.loads(file.read_text())} == {9}
    # A mask that is shifted is worse.
    if model is not BOXES:
        evaluator = build_evaluator(cfg_for("own", tmp_path / "out", **model, **COCO), "own")
        records, outputs = detections("own")
        for output in outputs:
            output["instances"].pred_masks = output["instances"].pred_masks.roll(3, 2)
        evaluator.reset()
        evaluator.process(records, outputs)
        assert evaluator.evaluate()["segm"]["AP"] < 60


@needs_panopticapi
def test_remedies_for_data_without_stuff(tmp_path: Path) -> None:
    paths = register(tmp_path / "data")
    things_alone(paths)
    cfg = cfg_for("own", tmp_path / "out")
    for check in (require_test_set, build_evaluator):
        with pytest.raises(ValueError, match=r'own has no classes of stuff: set TEST\.EVALUATOR "coco"'):
            check(cfg, "own")
    cfg = cfg_for("own", tmp_path / "out", **BOXES)
    for check in (require_test_set, build_evaluator):
        with pytest.raises(
            ValueError, match=r'model is not.*TEST\.EVALUATOR "coco".*INSTANCES in DATASETS\.REGISTER\.$'
        ):
            check(cfg, "own")
    assert average_precision(cfg_for("own", tmp_path / "out", **BOXES, **COCO), "own")["bbox"]["AP"] == pytest.approx(
        100
    )
    # The other remedy.
    register(tmp_path / "other", "other", INSTANCES=write_things(tmp_path, "own"))
    assert average_precision(cfg_for("other", tmp_path / "out", **BOXES), "other")["bbox"]["AP"] == pytest.approx(100)


@needs_panopticapi
def test_remedies_for_data_with_stuff(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register(tmp_path / "data")
    with pytest.raises(ValueError, match=r"or set MODEL\.DETR\.PANOPTIC\.ENABLED and MODEL\.MASK_ON to True"):
        require_test_set(cfg_for("own", tmp_path / "out", **BOXES), "own")
    cfg = cfg_for("own", tmp_path / "out")
    require_test_set(cfg, "own")
    assert_by_hand(quality(cfg, "own"))
    # A file of things that lacks an image.
    things = write_things(tmp_path, "own", images=[{"id": 11, "file_name": "11.png", "width": 48, "height": 32}])
    register(tmp_path / "partly", "partly", INSTANCES=things)
    cfg = cfg_for("partly", tmp_path / "out", **BOXES)
    with pytest.raises(
        ValueError, match=r"1 of its 2 images are not in .*instances\.json.*\(12\)\. Add them, or leave"
    ):
        require_test_set(cfg, "partly")
    write_things(tmp_path, "own")
    assert average_precision(cfg, "partly")["bbox"]["AP"] == pytest.approx(100)
    write_things(tmp_path, "own", images=[])
    assert average_precision(cfg_for("own", tmp_path / "out", **BOXES, **COCO), "own")["bbox"]["AP"] == pytest.approx(
        100
    )
    # One that is gone.
    Path(things).unlink()
    caplog.clear()
    require_test_set(cfg_for("partly", tmp_path / "out"), "partly")
    assert f'"partly": there will be no AP of things, as {things} does not exist' in caplog.text


def test_remedies_where_a_mean_would_be_over_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: object())
    paths = register(tmp_path / "data")
    whole = json.loads(paths["JSON"].read_text())
    for kept, what, remedy in (
        ((2, 4), "thing", "take it out of DATASETS.TEST"),
        ((9,), "stuff", 'set TEST.EVALUATOR "coco", for the AP of things alone'),
    ):
        for annotation in whole["annotations"]:
            segments = annotation["segments_info"]
            annotation["all"] = annotation.get("all", segments)
            annotation["segments_info"] = [s for s in annotation["all"] if s["category_id"] in kept]
        edit(paths["JSON"], **whole)
        cfg = cfg_for("own", tmp_path / "out")
        with pytest.raises(
            ValueError, match=rf"no segment of any {what} class.*Add images that show some, or {remedy}"
        ):
            require_test_set(cfg, "own")
    assert average_precision(cfg_for("own", tmp_path / "out", **COCO), "own")["segm"]["AP"] == pytest.approx(100)


def test_without_panopticapi_there_is_ap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(tmp_path / "data")
    monkeypatch.setitem(sys.modules, "panopticapi", None)
    monkeypatch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'To do without, set TEST\.EVALUATOR "coco", for the AP of things alone'):
        require_test_set(cfg_for("own", tmp_path / "out"), "own")
    assert average_precision(cfg_for("own", tmp_path / "out", **COCO), "own")["segm"]["AP"] == pytest.approx(100)


def test_the_separated_form_without_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panoptic quality needs the standard form's files; AP does without."""
    monkeypatch.setattr("pair_detr.evaluation.panoptic.find_spec", lambda name: object())
    write_image(tmp_path / "a.jpg", 48, 32)
    Image.fromarray(np.ones((32, 48), dtype=np.uint8)).save(tmp_path / "stuff.png")
    box = {"bbox": [5, 12, 10, 8], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    box["segmentation"] = [[5, 12, 15, 12, 15, 20, 5, 20]]
    record = {"file_name": str(tmp_path / "a.jpg"), "image_id": 1, "width": 48, "height": 32, "annotations": [box]}
    DatasetCatalog.register("apart", lambda: [record | {"sem_seg_file_name": str(tmp_path / "stuff.png")}])
    MetadataCatalog.get("apart").set(
        evaluator_type="coco_panoptic_seg",
        thing_classes=["cat"],
        stuff_classes=["things", "sky"],
        thing_dataset_id_to_contiguous_id={9: 0},
        stuff_dataset_id_to_contiguous_id={0: 0, 2: 1},
    )
    with pytest.raises(
        ValueError, match=r'no panoptic_json and panoptic_root in its metadata; set TEST\.EVALUATOR "coco"'
    ):
        require_test_set(cfg_for("apart", tmp_path), "apart")
    cfg = cfg_for("apart", tmp_path, **COCO)
    require_test_set(cfg, "apart")
    evaluator = build_evaluator(cfg, "apart")
    evaluator.reset()
    masks = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[0, 12:20, 5:15] = masks[1, :10] = True
    found = Instances((32, 48), pred_masks=masks, scores=torch.ones(2), pred_classes=torch.tensor([0, 1]))
    found.pred_boxes = BitMasks(masks).get_bounding_boxes()
    evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100) and results["segm"]["AP"] > 80
