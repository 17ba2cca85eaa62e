"""MODEL.DETR.CLASS_AGNOSTIC: boxes only, in training, detection and evaluation."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from engine_helpers import tiny_config, tiny_options, write_dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pair_detr.data import load_dataset
from pair_detr.engine import argument_parser, main
from pair_detr.evaluation.build import build_evaluator


def test_ap_is_that_of_pycocotools_without_classes(tmp_path: Path) -> None:
    entry = write_dataset(tmp_path, "class_agnostic")
    cfg = tiny_config(entry, tmp_path / "out", MODEL__DETR__CLASS_AGNOSTIC=True)
    evaluator = build_evaluator(cfg, "class_agnostic")
    evaluator.reset()
    results = []
    for record in load_dataset("class_agnostic"):
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32)
        # Shifted by 0 to 5 pixels, so that the AP is neither 0 nor 100.
        boxes[:, 0] += record["image_id"] % 6
        scores = torch.rand(len(boxes))
        results += [
            {"image_id": record["image_id"], "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
        corners = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)
        instances = Instances((32, 32), pred_boxes=Boxes(corners), scores=scores)
        instances.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
        evaluator.process([record], [{"instances": instances}])
    found = evaluator.evaluate()["bbox"]

    truth = COCO(entry["JSON"])
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.useCats = 0
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 5 < found["AP"] < 95
    assert found["AP"] == pytest.approx(100 * evaluation.stats[0])
    assert found["AP75"] == pytest.approx(100 * evaluation.stats[2])


def test_training_and_evaluation(tmp_path: Path) -> None:
    entry = write_dataset(tmp_path, "class_agnostic_trained")
    changes = {"MODEL__DETR__CLASS_AGNOSTIC": True, "SOLVER__MAX_ITER": 2}
    options = tiny_options(entry, tmp_path / "out", DATASETS__TEST=(entry["NAME"],), **changes)
    results = main(argument_parser().parse_args(["--num-gpus", "1", *options]))
    assert "AP" in results["bbox"]
    weights = torch.load(tmp_path / "out" / "model_final.pth", weights_only=False)["model"]
    assert weights["detector.class_head.weight"].shape[0] == 1
