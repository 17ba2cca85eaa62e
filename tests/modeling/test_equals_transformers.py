"""Conditional DETR and DETR against the implementations in transformers, with the same weights.

Where transformers is known to deviate from the official code the tests go around it, see ``transformers_helpers``.
"""

import pytest
import torch
from model_helpers import build, make_batch, tiny_resnet_cfg
from torch import nn
from transformers_helpers import their_inputs, their_labels, their_layers, their_losses, their_state_dict

from pair_detr.modeling.meta_arch import DetectionTransformer

transformers = pytest.importorskip("transformers")

SIZES = [(96, 128), (64, 160), (75, 90)]
COUNTS = [3, 0, 2]
NUM_CLASSES = 3
LAYERS = 3


def their_model(variant: str) -> nn.Module:
    """The same architecture as :func:`model_helpers.tiny_resnet_cfg`."""
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3], out_features=["stage4"]
    )
    config_class, model_class = {
        "conditional_detr": (transformers.ConditionalDetrConfig, transformers.ConditionalDetrForObjectDetection),
        "detr": (transformers.DetrConfig, transformers.DetrForObjectDetection),
    }[variant]
    config = config_class(
        backbone_config=backbone,
        use_timm_backbone=False,
        num_queries=7,
        d_model=32,
        encoder_layers=2,
        decoder_layers=LAYERS,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        dropout=0.0,
        num_labels=NUM_CLASSES,
    )
    return model_class(config)


@pytest.fixture(scope="module", params=["conditional_detr", "detr"])
def pair(request: pytest.FixtureRequest) -> tuple[DetectionTransformer, nn.Module]:
    """Our model and theirs with the same weights."""
    ours = build(tiny_resnet_cfg(request.param))
    theirs = their_model(request.param)
    missing, unexpected = theirs.load_state_dict(their_state_dict(ours, request.param), strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in name for name in missing)
    return ours, theirs.eval()


@pytest.fixture
def batch() -> list[dict]:
    return make_batch(SIZES, COUNTS)


def test_inference_equals_transformers(pair: tuple[DetectionTransformer, nn.Module], batch: list[dict]) -> None:
    ours, theirs = pair
    ours.eval()
    with torch.no_grad():
        predictions = ours.detector(ours.preprocess(batch))
        expected = theirs(**their_inputs(batch))
    assert predictions.logits.shape[0] == 1
    torch.testing.assert_close(predictions.logits[0], expected.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predictions.boxes[0], expected.pred_boxes, atol=1e-5, rtol=0)
    # The comparison means nothing if all queries, or all images, predict the same.
    assert expected.pred_boxes.std(0).mean() > 3e-3
    assert expected.pred_boxes.std(1).mean() > 3e-3


def test_all_layers_in_training_equal_transformers(
    pair: tuple[DetectionTransformer, nn.Module], batch: list[dict]
) -> None:
    ours, theirs = pair
    ours.train()
    predictions = ours.detector(ours.preprocess(batch))
    logits, boxes = their_layers(theirs, batch)
    torch.testing.assert_close(predictions.logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predictions.boxes, boxes, atol=1e-5, rtol=0)
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_losses_equal_transformers(pair: tuple[DetectionTransformer, nn.Module], batch: list[dict]) -> None:
    ours, theirs = pair
    ours.train()
    losses = ours(batch)
    expected = their_losses(theirs, batch)
    assert losses.keys() == expected.keys()
    for name in losses:
        torch.testing.assert_close(losses[name], expected[name], atol=1e-5, rtol=1e-5)


def test_matching_equals_transformers(pair: tuple[DetectionTransformer, nn.Module], batch: list[dict]) -> None:
    ours, theirs = pair
    ours.train()
    images = ours.preprocess(batch)
    predictions, targets = ours.detector(images), ours.pack_targets(batch, images)
    assignment = ours.criterion.matcher(predictions.logits, predictions.boxes, targets)

    if "Conditional" in type(theirs).__name__:
        from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher as Matcher
    else:
        from transformers.loss.loss_for_object_detection import HungarianMatcher as Matcher
    matcher = Matcher(theirs.config.class_cost, theirs.config.bbox_cost, theirs.config.giou_cost)
    starts = [0, 3, 3]
    expected = set()
    for layer in range(LAYERS):
        outputs = {"logits": predictions.logits[layer].detach(), "pred_boxes": predictions.boxes[layer].detach()}
        for image, (queries, targets) in enumerate(matcher(outputs, their_labels(batch))):
            expected |= {(layer, image, int(q), int(t) + starts[image]) for q, t in zip(queries, targets, strict=True)}
    found = zip(*(x.tolist() for x in vars(assignment).values()), strict=True)
    assert set(found) == expected
    assert len(expected) == LAYERS * sum(COUNTS)
