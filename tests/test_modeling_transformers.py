"""Conditional DETR and DETR against the implementations in transformers, with the same weights.

Where transformers is known to deviate from the official code the test goes around it: it ignores the weight of the
class loss, and with ``auxiliary_loss`` it feeds the normed state to the next layer, so layers are compared without it.
"""

import re

import pytest
import torch
from model_helpers import build, make_batch, tiny_resnet_cfg
from torch import Tensor, nn

from pair_detr.meta_arch import DetectionTransformer

transformers = pytest.importorskip("transformers")

SIZES = [(96, 128), (64, 160), (75, 90)]
COUNTS = [3, 0, 2]
NUM_CLASSES = 3
LAYERS = 3
# Ours -> theirs, in this order.
RENAME = [
    (r"^detector\.backbone\.stem\.conv1\.norm", "model.backbone.conv_encoder.model.embedder.embedder.normalization"),
    (r"^detector\.backbone\.stem\.conv1", "model.backbone.conv_encoder.model.embedder.embedder.convolution"),
    (r"^detector\.backbone\.res(\d)\.(\d+)", lambda m: f"model.backbone.stage{int(m[1]) - 2}.layers.{m[2]}"),
    (r"\.shortcut\.norm", ".shortcut.normalization"),
    (r"\.shortcut\.weight", ".shortcut.convolution.weight"),
    (r"(stage\d\.layers\.\d+)\.conv(\d)\.norm", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}.normalization"),
    (r"(stage\d\.layers\.\d+)\.conv(\d)\.weight", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}.convolution.weight"),
    (r"backbone\.stage(\d)", r"backbone.conv_encoder.model.encoder.stages.\1"),
    (r"backbone\.conv_encoder\.model", "backbone.model"),
    (r"^detector\.input_proj", "model.input_projection"),
    (r"^detector\.query_embed", "model.query_position_embeddings"),
    (r"^detector\.class_head", "class_labels_classifier"),
    (r"^detector\.box_head\.mlp", "bbox_predictor"),
    (r"^detector\.encoder\.layers\.(\d+)\.norm1", r"model.encoder.layers.\1.self_attn_layer_norm"),
    (r"^detector\.encoder\.layers\.(\d+)\.norm2", r"model.encoder.layers.\1.final_layer_norm"),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"\.norm2\.", ".encoder_attn_layer_norm."),
    (r"\.norm3\.", ".final_layer_norm."),
    (r"^detector\.decoder\.norm", "model.decoder.layernorm"),
    (r"^detector\.", "model."),
    (r"\.ffn\.linear(\d)", r".mlp.fc\1"),
    (r"cross_attn", "encoder_attn"),
    (r"out_proj", "o_proj"),
    (r"qpos_sine_proj", "q_pos_sine_proj"),
    (r"\.([qk])(content|pos)_proj", r".\1_\2_proj"),
]


def their_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Our state dict under the names of transformers."""
    theirs = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in RENAME:
            name = re.sub(pattern, replacement, name)
        if "in_proj_" in name:
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                theirs[name.replace("in_proj_", f"{part}_proj.")] = chunk
        else:
            theirs[name] = tensor
    return theirs


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
    missing, unexpected = theirs.load_state_dict(their_state_dict(ours), strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in name for name in missing)
    return ours, theirs.eval()


@pytest.fixture
def batch() -> list[dict]:
    return make_batch(SIZES, COUNTS)


def their_inputs(batch: list[dict]) -> dict[str, Tensor]:
    """Normalised images, zero in the padding, and a mask that is 1 on the image."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    height, width = (max(size[i] for size in SIZES) for i in (0, 1))
    images, mask = torch.zeros(len(batch), 3, height, width), torch.zeros(len(batch), height, width, dtype=torch.long)
    for i, item in enumerate(batch):
        h, w = item["image"].shape[1:]
        images[i, :, :h, :w] = (item["image"] - mean[:, None, None]) / std[:, None, None]
        mask[i, :h, :w] = 1
    return {"pixel_values": images, "pixel_mask": mask}


def their_labels(batch: list[dict]) -> list[dict[str, Tensor]]:
    labels = []
    for item in batch:
        height, width = item["image"].shape[1:]
        x0, y0, x1, y1 = item["instances"].gt_boxes.tensor.unbind(1)
        boxes = torch.stack(((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height), 1)
        labels.append({"class_labels": item["instances"].gt_classes, "boxes": boxes})
    return labels


@torch.no_grad()
def their_layers(theirs: nn.Module, batch: list[dict]) -> tuple[Tensor, Tensor]:
    """(L, B, Q, C) logits and (L, B, Q, 4) boxes of every decoder layer, each through the decoder's norm."""
    outputs = theirs(**their_inputs(batch), output_hidden_states=True)
    states = torch.stack([theirs.model.decoder.layernorm(s) for s in outputs.decoder_hidden_states[-LAYERS:-1]])
    states = torch.cat((states, outputs.last_hidden_state[None]))
    boxes = theirs.bbox_predictor(states)
    if hasattr(theirs.model.decoder, "ref_point_head"):
        # The official formula: a logit whose two terms are clamped at 1e-5 apart from each other.
        reference = theirs.model.decoder.ref_point_head(theirs.model.query_position_embeddings.weight).sigmoid()
        boxes[..., :2] += torch.log(reference.clamp(min=1e-5) / (1 - reference).clamp(min=1e-5))
    boxes = boxes.sigmoid()
    torch.testing.assert_close(boxes[-1], outputs.pred_boxes, atol=1e-6, rtol=0)
    return theirs.class_labels_classifier(states), boxes


def test_inference_equals_transformers(pair: tuple[DetectionTransformer, nn.Module], batch: list[dict]) -> None:
    ours, theirs = pair
    ours.eval()
    with torch.no_grad():
        predictions = ours.detector(*ours.preprocess(batch))
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
    predictions = ours.detector(*ours.preprocess(batch))
    logits, boxes = their_layers(theirs, batch)
    torch.testing.assert_close(predictions.logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predictions.boxes, boxes, atol=1e-5, rtol=0)
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_losses_equal_transformers(pair: tuple[DetectionTransformer, nn.Module], batch: list[dict]) -> None:
    ours, theirs = pair
    ours.train()
    losses = ours(batch)
    logits, boxes = their_layers(theirs, batch)
    theirs.config.auxiliary_loss = True
    _, expected, _ = theirs.loss_function(
        logits[-1], their_labels(batch), logits.device, boxes[-1], theirs.config, logits, boxes
    )
    theirs.config.auxiliary_loss = False

    class_weight = 2.0 if "Conditional" in type(theirs).__name__ else 1.0
    for name, their_name, weight in (
        ("loss_class", "loss_ce", class_weight),
        ("loss_box", "loss_bbox", 5.0),
        ("loss_giou", "loss_giou", 2.0),
    ):
        auxiliary = sum(expected[f"{their_name}_{i}"] for i in range(LAYERS - 1))
        torch.testing.assert_close(losses[name], weight * expected[their_name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(losses[f"{name}_aux"], weight * auxiliary, atol=1e-5, rtol=1e-5)
    assert len(losses) == 6


def test_matching_equals_transformers(pair: tuple[DetectionTransformer, nn.Module], batch: list[dict]) -> None:
    ours, theirs = pair
    ours.train()
    predictions = ours.detector(*ours.preprocess(batch))
    assignment = ours.criterion.matcher(predictions.logits, predictions.boxes, ours.pack_targets(batch))

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
