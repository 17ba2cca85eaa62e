"""Programs that are written for Detectron2's models take those of this package: docs/detectron2.md."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from model_helpers import build, tiny_cfg

import pair_detr
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(params=[False, True], ids=["boxes", "masks"])
def cfg(request: pytest.FixtureRequest, tmp_path: Path) -> CfgNode:
    """Of a tiny model, whose checkpoint is in MODEL.WEIGHTS, and which has been trained on the dataset "pets"."""
    cfg = tiny_cfg("detr")
    cfg.MODEL.MASK_ON = request.param
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("pets",), ("pets",)
    with restored_catalogs():
        MetadataCatalog.get("pets").set(thing_classes=NAMES)
        AtomicCheckpointer(build(cfg), str(tmp_path)).save("model")
        cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
        yield cfg


def expected_of(cfg: CfgNode) -> dict[str, Any]:
    return pair_detr.Predictor(cfg)(IMAGE)["instances"].get_fields()


def test_detectron2_s_predictor(cfg: CfgNode) -> None:
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == NAMES
    found, expected = predictor(IMAGE)["instances"].get_fields(), expected_of(cfg)
    assert set(found) == set(expected) >= {"pred_boxes", "scores", "pred_classes"}
    assert ("pred_masks" in found) == cfg.MODEL.MASK_ON
    torch.testing.assert_close(found["pred_boxes"].tensor, expected["pred_boxes"].tensor)
    torch.testing.assert_close(found["scores"], expected["scores"])


def test_supervision_s_detections(cfg: CfgNode) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed: see the extra demo in setup.py")
    expected = expected_of(cfg)
    detections = sv.Detections.from_detectron2(DefaultPredictor(cfg)(IMAGE))
    np.testing.assert_allclose(detections.xyxy, expected["pred_boxes"].tensor, atol=1e-4)
    np.testing.assert_allclose(detections.confidence, expected["scores"], atol=1e-6)
    assert detections.class_id.tolist() == expected["pred_classes"].tolist()
    assert (detections.mask is not None) == cfg.MODEL.MASK_ON
    # Its slicer warns of boxes that reach out of their slice.
    height, width = IMAGE.shape[:2]
    assert (detections.xyxy >= 0).all()
    assert (detections.xyxy <= [width, height, width, height]).all()
    predictor = DefaultPredictor(cfg)
    slicer = sv.InferenceSlicer(
        callback=lambda part: sv.Detections.from_detectron2(predictor(part)), slice_wh=(40, 40), overlap_wh=(8, 8)
    )
    assert (slicer(IMAGE).xyxy <= [width, height, width, height]).all()


def test_sahi_s_detectron2_model(cfg: CfgNode, tmp_path: Path) -> None:
    """It knows none of this package's keys; the config that a run writes has all of them."""
    pytest.importorskip("sahi", reason="SAHI is not installed: see the extra integrations in setup.py")
    from sahi import AutoDetectionModel
    from sahi.predict import get_prediction, get_sliced_prediction

    (tmp_path / "config.yaml").write_text(cfg.dump())
    model = AutoDetectionModel.from_pretrained(
        "detectron2",
        model_path=cfg.MODEL.WEIGHTS,
        config_path=str(tmp_path / "config.yaml"),
        device="cpu",
        confidence_threshold=0.0,
    )
    assert model.category_mapping == {"0": "cat", "1": "dog", "2": "owl"}
    # SAHI turns images to BGR, which DefaultPredictor takes, for models of INPUT.FORMAT BGR alone.
    found = get_prediction(IMAGE, model).object_prediction_list
    expected = expected_of(cfg)
    if not cfg.MODEL.MASK_ON:
        # SAHI takes the boxes of masks from these, and leaves out masks that are empty.
        assert len(found) == len(expected["scores"])
        boxes = [x.bbox.to_xyxy() for x in found]
        torch.testing.assert_close(torch.tensor(boxes), expected["pred_boxes"].tensor, atol=1e-3, rtol=0)
        assert [x.category.name for x in found] == [NAMES[label] for label in expected["pred_classes"]]
    assert {x.category.name for x in found} <= set(NAMES)
    sliced = get_sliced_prediction(IMAGE, model, 40, 40, verbose=0)
    assert all(0 <= x.bbox.minx <= x.bbox.maxx <= 80 for x in sliced.object_prediction_list)
