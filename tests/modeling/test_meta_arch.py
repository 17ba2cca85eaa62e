"""Detectron2's dicts in, losses or Instances out: invariances, errors, precision and gradients."""

import logging
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from model_helpers import VARIANTS, build, make_batch, make_instances, tiny_cfg, tiny_resnet_cfg
from torch import Tensor

from pair_detr.losses.classification import Softmax
from pair_detr.modeling.meta_arch import DetectionTransformer

# Multiples of the backbone's stride: an image whose last cell is partly padding has more pixels of zeros in it when it
# is padded than when it is alone.
STRIDE = 8
SMALL, WIDE, LARGE = (40, 48), (48, 96), (64, 96)


def patch_model(variant: str, **detr: Any) -> DetectionTransformer:
    cfg = tiny_cfg(variant, **detr)
    cfg.MODEL.BACKBONE.NAME = "build_patch_backbone"
    return build(cfg).eval()


@torch.no_grad()
def raw(model: DetectionTransformer, batch: list[dict]) -> tuple[Tensor, Tensor]:
    """(B, Q, C) probabilities and (B, Q, 4) boxes in inference."""
    predictions = model.detector(model.preprocess(batch))
    logits = predictions.logits[-1]
    return logits.softmax(-1) if isinstance(model.class_scoring, Softmax) else logits.sigmoid(), predictions.boxes[-1]


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("box_decoding", ["center", "pair"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_does_not_change_predictions(variant: str, box_decoding: str) -> None:
    model = patch_model(variant, PAIR__BOX_DECODING=box_decoding)
    batch = make_batch([SMALL, LARGE, WIDE], [0, 0, 0])
    together = raw(model, batch)
    for i, item in enumerate(batch):
        alone = raw(model, [item])
        assert_same(tuple(x[[i]] for x in together), alone)
    assert (together[1][0] - together[1][1]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("make_cfg", [tiny_cfg, tiny_resnet_cfg])
def test_order_and_company_do_not_change_predictions(make_cfg: Any, variant: str) -> None:
    """The batch is padded to the same size each time; the backbones are real ones."""
    model = build(make_cfg(variant)).eval()
    batch = make_batch([(40, 64), (64, 96), (48, 96), (64, 64)], [0] * 4)
    together = raw(model, batch)
    order = [2, 0, 3, 1]
    assert_same(raw(model, [batch[i] for i in order]), tuple(x[order] for x in together))
    assert_same(raw(model, batch[:2]), tuple(x[:2] for x in together))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("make_cfg", [tiny_cfg, tiny_resnet_cfg])
def test_images_of_one_size_do_not_change_each_other(make_cfg: Any, variant: str) -> None:
    model = build(make_cfg(variant)).eval()
    batch = make_batch([(64, 96)] * 3, [0] * 3)
    together = raw(model, batch)
    for i, item in enumerate(batch):
        assert_same(tuple(x[[i]] for x in together), raw(model, [item]))


def test_detections_do_not_depend_on_padding() -> None:
    """The same through the public interface, boxes in pixels."""
    model = patch_model("pair_detr")
    batch = make_batch([SMALL, LARGE], [0, 0])
    alone, together = model(batch[:1])[0]["instances"], model(batch)[0]["instances"]
    torch.testing.assert_close(alone.scores, together.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.pred_boxes.tensor, together.pred_boxes.tensor, atol=1e-3, rtol=0)
    assert torch.equal(alone.pred_classes, together.pred_classes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_absent_mask_equals_empty_mask(variant: str) -> None:
    model = patch_model(variant)
    batch = model.preprocess(make_batch([LARGE, LARGE], [0, 0]))
    assert batch.padding_mask is None
    with torch.no_grad():
        without = model.detector(batch)
        empty = model.detector(replace(batch, padding_mask=torch.zeros(2, *LARGE, dtype=torch.bool)))
    assert_same((without.logits, without.boxes), (empty.logits, empty.boxes))


def test_preprocess_normalizes_then_pads() -> None:
    model = patch_model("detr")
    batch = make_batch([SMALL, WIDE], [0, 0])
    padded = model.preprocess(batch)
    images, mask = padded.images, padded.padding_mask
    assert images.shape == (2, 3, 48, 96)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    for i, item in enumerate(batch):
        h, w = item["image"].shape[1:]
        for channel in range(3):
            expected = (item["image"][channel].float() - mean[channel]) / std[channel]
            torch.testing.assert_close(images[i, channel, :h, :w], expected)
        assert not images[i, :, h:].any()
        assert not images[i, :, :, w:].any()
        assert not mask[i, :h, :w].any()
        assert mask[i].sum() == 48 * 96 - h * w


def test_targets_are_normalized_by_their_own_image() -> None:
    model = patch_model("detr")
    batch = make_batch([(40, 80), (64, 32), (48, 48)], [1, 0, 2])
    batch[0]["instances"].gt_boxes = Boxes(torch.tensor([[8.0, 4.0, 24.0, 20.0]]))
    batch[0]["instances"].gt_classes = torch.tensor([2])
    batch[2]["instances"].gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 48.0, 48.0], [12.0, 0.0, 24.0, 24.0]]))
    targets = model.pack_targets(batch, model.preprocess(batch))
    expected = [[0.2, 0.3, 0.2, 0.4], [0.5, 0.5, 1.0, 1.0], [0.375, 0.25, 0.25, 0.5]]
    torch.testing.assert_close(targets.boxes, torch.tensor(expected))
    assert targets.image_index.tolist() == [0, 2, 2]
    assert targets.counts == [1, 0, 2]
    assert targets.labels[0] == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_are_scaled_to_the_output_size(variant: str) -> None:
    cfg = tiny_cfg(variant)
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    model = build(cfg).eval()
    batch = make_batch([SMALL, LARGE], [0, 0])
    batch[0] |= {"height": 200, "width": 120}
    del batch[1]["height"], batch[1]["width"]
    outputs = model(batch)
    scores, boxes = raw(model, batch)
    for i, (height, width) in enumerate([(200, 120), LARGE]):
        instances = outputs[i]["instances"]
        assert instances.image_size == (height, width)
        if variant == "detr":
            candidates = [(*row[:-1].max(-1), q) for q, row in enumerate(scores[i])]
        else:
            candidates = [(row[c], c, q) for q, row in enumerate(scores[i]) for c in range(3)]
        best = sorted(candidates, key=lambda candidate: -float(candidate[0]))[:5]
        assert instances.pred_classes.tolist() == [int(c) for _, c, _ in best]
        torch.testing.assert_close(instances.scores, torch.stack([s for s, _, _ in best]))
        for found, (_, _, query) in zip(instances.pred_boxes.tensor, best, strict=True):
            x, y, w, h = boxes[i, query].tolist()
            corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            # Clipped to the output, as by Detectron2's detector_postprocess.
            expected = [min(max(side, 0), limit) for side, limit in zip(corners, (width, height) * 2, strict=True)]
            torch.testing.assert_close(found, torch.tensor(expected), atol=1e-3, rtol=1e-5)


def test_evaluation_does_not_need_ground_truth() -> None:
    model = patch_model("pair_detr")
    batch = [{"image": item["image"]} for item in make_batch([SMALL, LARGE], [0, 0])]
    assert [len(output["instances"]) for output in model(batch)] == [21, 21]


@pytest.mark.parametrize("variant", VARIANTS)
def test_diverged_model_names_file_and_layer(variant: str) -> None:
    model = build(tiny_cfg(variant))
    batch = make_batch([SMALL, LARGE], [0, 2])
    with torch.no_grad():
        model.detector.class_head.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"image0\.png: the class logits of decoder layer 0.*BASE_LR"):
        model(batch)


def test_bad_annotation_names_file() -> None:
    model = build(tiny_cfg())
    batch = make_batch([SMALL, LARGE, WIDE], [1, 0, 2])
    batch[2]["instances"].gt_boxes.tensor[1, 2] = float("inf")
    with pytest.raises(FloatingPointError, match=r"image2\.png: the ground-truth boxes.*annotation"):
        model(batch)
    del batch[2]["file_name"]
    with pytest.raises(FloatingPointError, match="image 2 of the batch: the ground-truth boxes"):
        model(batch)


def test_more_objects_than_queries_warns_and_trains(caplog: pytest.LogCaptureFixture) -> None:
    model = build(tiny_cfg(NUM_QUERIES=4))
    batch = make_batch([SMALL, LARGE], [9, 2])
    with caplog.at_level(logging.WARNING):
        losses = model(batch)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "image0.png has 9 objects" in message
    assert "MODEL.DETR.NUM_QUERIES" in message
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())


CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("detr", {}),
    ("detr", {"LOSS__DEEP_SUPERVISION": False}),
    ("detr", {"LOSS__CLASSIFICATION": "focal"}),
    ("conditional_detr", {}),
    ("conditional_detr", {"DEC_LAYERS": 1}),
    ("conditional_detr", {"LOSS__CLASSIFICATION": "softmax"}),
    ("pair_detr", {}),
    ("pair_detr", {"DEC_LAYERS": 1, "PAIR__CONTRASTIVE_LAYERS": "all"}),
    ("pair_detr", {"LOSS__DEEP_SUPERVISION": False, "PAIR__CONTRASTIVE_LAYERS": "all"}),
    ("pair_detr", {"PAIR__BOX_DECODING": "pair"}),
    ("pair_detr", {"PAIR__BOX_DECODING": "pair", "PAIR__TOP_LEFT_WEIGHT": 0.0, "PAIR__CONTRASTIVE_WEIGHT": 0.0}),
    ("pair_detr", {"PAIR__SHARED_DECODER": True, "PAIR__PROJECTION_DIM": 8}),
    ("pair_detr", {"PAIR__CONTRASTIVE_LAYERS": "all", "PAIR__CONTRASTIVE_LOSS": "cross", "PAIR__PROJECTION_DIM": 8}),
    ("pair_detr", {"PAIR__CONTRASTIVE_WEIGHT": 0.0, "PAIR__PROJECTION_DIM": 8}),
    ("pair_detr", {"PAIR__TOP_LEFT_WEIGHT": 0.0}),
]


@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0, 0)], ids=["objects", "no objects"])
@pytest.mark.parametrize(("variant", "options"), CHOICES)
def test_every_parameter_gets_a_gradient(variant: str, options: dict[str, Any], counts: tuple[int, ...]) -> None:
    """Otherwise DistributedDataParallel waits for a parameter for ever."""
    model = build(tiny_cfg(variant, **options))
    losses = model(make_batch([SMALL, LARGE, WIDE], counts))
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    if any(counts):
        # The content of Conditional DETR's queries is zero in the first layer, and so is the gradient of what reads it.
        content = re.compile(r"layers\.0\.self_attn\.(qcontent|kcontent|v)_proj\.weight")
        idle = [n for n, p in model.named_parameters() if not p.grad.any() and not content.search(n)]
        assert idle == [] or (options.get("PAIR__TOP_LEFT_WEIGHT") == 0.0 and all("top_left_head" in n for n in idle))


@pytest.mark.parametrize("counts", [(2, 0), (0, 0)])
def test_loss_terms_are_the_same_for_any_batch(counts: tuple[int, ...]) -> None:
    names = ("class", "box", "giou", "top_left")
    expected = {f"loss_{name}{suffix}" for name in names for suffix in ("", "_aux")} | {"loss_pair"}
    assert set(build(tiny_cfg())(make_batch([SMALL, LARGE], counts))) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_keeps_boxes_and_losses_in_fp32(variant: str) -> None:
    model = build(tiny_cfg(variant))
    batch = make_batch([SMALL, LARGE], [2, 3])
    expected = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = model.detector(model.preprocess(batch))
        losses = model(batch)
    assert predictions.logits.dtype == torch.bfloat16
    assert predictions.boxes.dtype == torch.float32
    if variant == "pair_detr":
        assert predictions.top_left.dtype == torch.float32
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
        torch.testing.assert_close(loss, expected[name], rtol=0.15, atol=0.05)
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        instances = model(batch)[0]["instances"]
    assert instances.scores.dtype == torch.float32
    assert instances.pred_boxes.tensor.dtype == torch.float32


def test_training_does_not_change_its_input() -> None:
    model = build(tiny_cfg())
    batch = make_batch([SMALL, LARGE], [2, 1])
    copies = [(item["image"].clone(), item["instances"].gt_boxes.tensor.clone()) for item in batch]
    model(batch)
    for item, (image, boxes) in zip(batch, copies, strict=True):
        assert torch.equal(item["image"], image)
        assert torch.equal(item["instances"].gt_boxes.tensor, boxes)


def test_labels_of_any_integer_type() -> None:
    model = build(tiny_cfg())
    instances = make_instances(SMALL, 2)
    instances.gt_classes = instances.gt_classes.int()
    model([{"image": torch.zeros(3, *SMALL), "instances": instances}])


def test_explicit_construction_needs_no_config() -> None:
    built = build(tiny_cfg())
    model = DetectionTransformer(
        detector=built.detector,
        criterion=built.criterion,
        class_scoring=built.class_scoring,
        num_classes=3,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[255.0, 255.0, 255.0],
        detections_per_image=2,
    ).eval()
    (output,) = model([{"image": torch.zeros(3, 48, 48)}])
    assert isinstance(output["instances"], Instances)
    assert len(output["instances"]) == 2


def test_registered_under_its_name() -> None:
    cfg: CfgNode = tiny_cfg()
    assert cfg.MODEL.META_ARCHITECTURE == "DetectionTransformer"
    assert build(cfg).device == torch.device("cpu")
