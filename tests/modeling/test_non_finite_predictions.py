"""Detections of a model that predicts NaN or infinity, in a part of its queries or in all."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.evaluation import inference_on_dataset
from engine_helpers import tiny_config, write_dataset
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from segmentation_helpers import build_sharp, make_mask_batch, panoptic_cfg
from torch import Tensor

from pair_detr.engine import Trainer
from pair_detr.losses.classification import SigmoidFocal, Softmax
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.predictor import Predictor
from pair_detr.structures import Predictions

SIZES = [(40, 48), (48, 40)]
CLASS, QUERIES = 1, 7


@torch.no_grad()
def postprocess(
    model: DetectionTransformer, batch: list[dict[str, Any]], spoil: Callable[[Predictions], Predictions]
) -> tuple[list[dict[str, Any]], Predictions]:
    """Results of predictions that were changed, and the predictions as they were."""
    images = model.preprocess(batch)
    predictions = model.detector(images)
    copies = replace(predictions, logits=predictions.logits.clone(), boxes=predictions.boxes.clone())
    return model.postprocess(spoil(copies), images, batch), predictions


def spoil_two_queries(predictions: Predictions) -> Predictions:
    """The best query of the first image has a box that is not finite, another one an infinite logit."""
    best = predictions.logits[-1, 0, :, :3].amax(-1).argmax()
    predictions.boxes[-1, 0, best, 2] = math.nan
    predictions.logits[-1, 0, best - 1, CLASS] = math.inf
    return predictions


@pytest.mark.parametrize("limit", [2, 100])
@pytest.mark.parametrize("class_scoring", [SigmoidFocal(), Softmax()], ids=["focal", "softmax"])
def test_queries_that_are_not_finite_are_left_out(
    class_scoring: SigmoidFocal | Softmax, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All others are detected, and none of them has to make way."""
    kind = "focal" if isinstance(class_scoring, SigmoidFocal) else "softmax"
    model = build(tiny_cfg("detr", LOSS__CLASSIFICATION=kind)).eval()
    model.detections_per_image = limit
    batch = make_batch(SIZES, [0, 0])
    results, predictions = postprocess(model, batch, spoil_two_queries)
    logits = predictions.logits[-1]
    probs = logits.sigmoid() if kind == "focal" else logits.softmax(-1)[..., :-1].amax(-1, keepdim=True)
    best = int(logits[0, :, :3].amax(-1).argmax())
    others = [q for q in range(QUERIES) if q not in (best, (best - 1) % QUERIES)]
    expected = [probs[0, others].flatten(), probs[1].flatten()]
    for result, scores in zip(results, expected, strict=True):
        instances = result["instances"]
        torch.testing.assert_close(instances.scores, scores.sort(descending=True).values[:limit])
        assert instances.pred_boxes.tensor.isfinite().all()
    (message,) = caplog.messages
    assert "image0.png: 2 of 7 queries predict NaN or infinity" in message
    assert "bfloat16 or float32" in message
    postprocess(model, batch, spoil_two_queries)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_that_is_nan_detects_nothing(variant: str, caplog: pytest.LogCaptureFixture) -> None:
    model = build(tiny_cfg(variant)).eval()
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    batch = make_batch(SIZES, [0, 0])
    del batch[0]["file_name"]
    for _ in range(2):
        assert [len(result["instances"]) for result in model(batch)] == [0, 0]
    (message,) = caplog.messages
    assert message.startswith("image 0 of the batch: 7 of 7 queries")


def test_finite_predictions_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    build(tiny_cfg()).eval()(make_batch(SIZES, [0, 0]))
    assert caplog.messages == []


def test_the_predictor_of_a_model_that_is_nan() -> None:
    predictor = Predictor(tiny_cfg())
    image = np.zeros((40, 48, 3), dtype=np.uint8)
    assert len(predictor(image)["instances"]) == 21
    predictor.model.detector.input_proj.bias.data[0] = math.nan
    assert len(predictor(image)["instances"]) == 0


class SpoiledHead(torch.nn.Module):
    """A mask head that gives a query of the first image a mask with a pixel that is not finite."""

    def __init__(self, head: torch.nn.Module, query: int, value: float) -> None:
        super().__init__()
        self.head, self.query, self.value = head, query, value
        self.image_parts = head.image_parts

    def forward(self, asked: Any, query: Tensor, counts: list[int], parts: Any) -> Tensor:
        logits = self.head(asked, query, counts, parts).clone()
        if counts[0]:
            logits[query == self.query, 3, 2] = self.value
        return logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("panoptic", [False, True])
def test_masks_that_are_not_finite_are_left_out(panoptic: bool, value: float, caplog: pytest.LogCaptureFixture) -> None:
    """Instances, segments and scores of classes are those without the query."""
    cfg = panoptic_cfg("detr", "non_finite_panoptic")
    cfg.MODEL.DETR.PANOPTIC.ENABLED = panoptic
    model = build_sharp(cfg).eval()
    batch = make_mask_batch(SIZES, [1, 1])

    def without(query: int) -> Callable[[Predictions], Predictions]:
        def spoil(predictions: Predictions) -> Predictions:
            predictions.logits[-1, 0, query] = math.nan
            return predictions

        return spoil

    _, predictions = postprocess(model, batch, lambda x: x)
    query = int(predictions.logits[-1, 0].softmax(-1)[:, :2].amax(-1).argmax())
    expected, _ = postprocess(model, batch, without(query))
    model.detector.mask_head = SpoiledHead(model.detector.mask_head, query, value)
    caplog.clear()
    model._has_warned = False
    results, _ = postprocess(model, batch, lambda x: x)
    assert "image0.png: 1 of 7 queries" in caplog.text
    for found, wanted in zip(results, expected, strict=True):
        for field in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(found["instances"].get(field), wanted["instances"].get(field)), field
        assert found.keys() == wanted.keys()
        if panoptic:
            torch.testing.assert_close(found["sem_seg"], wanted["sem_seg"])
            assert torch.equal(found["panoptic_seg"][0], wanted["panoptic_seg"][0])
            assert found["panoptic_seg"][1] == wanted["panoptic_seg"][1]
    assert len(results[0]["instances"]) < QUERIES


def test_the_only_confident_query_has_a_mask_that_is_not_finite() -> None:
    """Its empty mask does not win the image."""
    cfg = panoptic_cfg("detr", "non_finite_panoptic")
    model = build_sharp(cfg).eval()
    model.detector.mask_head = SpoiledHead(model.detector.mask_head, 2, math.nan)

    def only_one(predictions: Predictions) -> Predictions:
        predictions.logits[-1, :, :, :4] = -9.0
        predictions.logits[-1, :, 2, 0] = 9.0
        return predictions

    first, second = (x["panoptic_seg"] for x in postprocess(model, make_mask_batch(SIZES, [1, 1]), only_one)[0])
    assert first[1] == [] and not first[0].any()
    assert len(second[1]) == 1


def test_a_model_that_is_nan_has_no_ap(tmp_path: Path) -> None:
    """pycocotools takes an IoU of NaN for a match."""
    with restored_catalogs():
        dataset = write_dataset(tmp_path, "non_finite_evaluation")
        cfg = tiny_config(dataset, tmp_path / "out", DATASETS__TEST=(dataset["NAME"],))
        model = Trainer.build_model(cfg)
        model.detector.box_head.mlp.layers[-1].bias.data[:] = math.nan
        loader = Trainer.build_test_loader(cfg, dataset["NAME"])
        results = inference_on_dataset(model, loader, Trainer.build_evaluator(cfg, dataset["NAME"]))
        assert results["bbox"]["AP"] == 0
        with pytest.raises(FloatingPointError, match=r"cannot be evaluated: detector\.box_head\.\S+\.bias holds NaN"):
            Trainer.test(cfg, model)
