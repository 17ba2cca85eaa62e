"""All that lets detectors converge faster at once: precision, kinds of batches and of models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from model_helpers import build, make_batch, tiny_cfg
from open_vocabulary_helpers import build_text_model, make_texts
from segmentation_helpers import make_mask_batch, panoptic_cfg
from torch import nn

from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.structures import Memory, Queries

SIZES = [(40, 48), (64, 96)]
ALL: dict[str, Any] = {
    "DENSE__ENABLED": True,
    "QUERY_SELECTION": "boxes",
    "QUERY_GROUPS": 2,
    "DENOISING__GROUPS": 2,
    "DENOISING__NEGATIVES": True,
    "BOX_REFINEMENT": "look_forward_twice",
    "BOX_BIAS": True,
    "LOSS__CLASSIFICATION": "mal",
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "conditional_detr": ("conditional_detr", ALL),
    "pair_detr": ("pair_detr", ALL | {"PAIR__QUERIES_PER_OBJECT": 4}),
    "shared": ("pair_detr", ALL | {"PAIR__QUERIES_PER_OBJECT": 4, "PAIR__SHARED_DECODER": True}),
    "relative": ("conditional_detr", ALL | {"RELATIVE_BOXES": True, "LOCAL_ATTENTION": True}),
    "corner classes": ("pair_detr", ALL | {"PAIR__QUERIES_PER_OBJECT": 4, "PAIR__CLASS_DECODER": "top_left"}),
    "last layer": ("pair_detr", ALL | {"PAIR__QUERIES_PER_OBJECT": 4, "LOSS__DEEP_SUPERVISION": False}),
}
BRANCHES = {"dense", "denoising"}


@pytest.fixture(autouse=True)
def _catalogs() -> Iterator[None]:
    with restored_catalogs():
        yield


def cfg_of(name: str, **more: Any) -> CfgNode:
    variant, detr = MODELS[name]
    return tiny_cfg(variant, **detr | more)


def with_masks(name: str, **more: Any) -> CfgNode:
    cfg = cfg_of(name, **more)
    cfg.MODEL.MASK_ON = True
    return cfg


def assert_trains(model: DetectionTransformer, batch: list[dict[str, Any]]) -> dict[str, float]:
    """All losses and gradients are finite, and all that is trained has a gradient; then a step lowers the loss."""
    model.train().zero_grad(set_to_none=True)
    losses = model(batch)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return {name: loss.item() for name, loss in losses.items()}


def assert_detects(model: DetectionTransformer, batch: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        for result in model.eval()(batch):
            instances = result["instances"]
            assert len(instances) > 0
            assert instances.pred_boxes.tensor.isfinite().all()
            assert instances.scores.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_one_step(name: str) -> None:
    """In fp32 and bfloat16, which are alike; the gradient lowers the loss."""
    model, batch = build(cfg_of(name)), make_batch(SIZES, [3, 1])
    losses = assert_trains(model, batch)
    branches = BRANCHES | ({"top_left"} if name not in ("conditional_detr", "relative") else set())
    for branch in branches:
        assert {f"loss_{branch}_{kind}" for kind in ("class", "box", "giou")} <= losses.keys()
    assert ("loss_denoising_box_aux" in losses) == (name != "last layer")
    assert "loss_dense_box_aux" not in losses
    before = sum(losses.values())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = assert_trains(model, batch)
    assert rounded.keys() == losses.keys()
    assert sum(rounded.values()) == pytest.approx(before, rel=0.1)
    assert_trains(model, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-5 * parameter.grad
        model.train()
        assert sum(model(batch).values()).item() < before
        # Random offsets in units of boxes lead out of the image.
        for parameter in model.detector.box_head.mlp.layers[-1].parameters():
            parameter *= name != "relative"
    assert_detects(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert_detects(model, batch)


@pytest.mark.parametrize("name", MODELS)
def test_batches_without_objects(name: str) -> None:
    """The same losses, and gradients for all parameters."""
    model = build(cfg_of(name))
    expected = assert_trains(model, make_batch(SIZES, [3, 1]))
    found = assert_trains(model, make_batch(SIZES, [0, 0]))
    assert found.keys() == expected.keys()
    assert all(value == 0 for key, value in found.items() if "box" in key or "giou" in key)
    # An image without them, next to one with as many as there are queries, or more.
    assert_trains(model, make_batch(SIZES, [0, 9]))


@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr", "shared"])
def test_the_order_of_images_changes_no_loss(name: str) -> None:
    model, batch = build(cfg_of(name)), make_batch([(64, 96)] * 3, [3, 0, 2])
    # In batch normalization images see each other.
    model.train().detector.backbone.eval()
    with torch.no_grad():
        expected, found = model(batch), model(batch[::-1])
    for key, loss in expected.items():
        torch.testing.assert_close(found[key], loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decoder", ["center", "top_left"])
@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr", "shared"])
def test_masks(name: str, decoder: str) -> None:
    cfg = with_masks(name, MASK__QUERY_DECODER=decoder, MASK__SPATIAL_QUERY=True)
    model, batch = build(cfg), make_mask_batch(SIZES, [3, 1])
    losses = assert_trains(model, batch)
    assert losses["loss_mask"] > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert_trains(model, batch)
    assert_trains(model, make_mask_batch(SIZES, [0, 0]))
    images = model.preprocess(batch)
    queries = model.detector(images, model.pack_targets(batch, images)).mask_queries
    # Those of the first group, and where they look from.
    assert queries.states.shape == (2, 7, 32)
    width = 2 if decoder == "top_left" and name != "conditional_detr" else 4
    assert queries.reference.shape == (2, 7, width)
    assert_detects(model, batch)


def test_mask_losses_of_groups_are_those_of_the_first() -> None:
    """With copies in the others, they are those of a model without groups."""
    detr = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes"}
    batch, losses = make_mask_batch(SIZES, [3, 1]), []
    for groups in (1, 3):
        cfg = tiny_cfg("conditional_detr", QUERY_GROUPS=groups, **detr)
        cfg.MODEL.MASK_ON = True
        model = build(cfg)
        if groups == 1:
            state = model.state_dict()
        else:
            more = model.detector.query_builder.more_queries.weight
            model.load_state_dict(state, strict=False)
            with torch.no_grad():
                more.copy_(model.detector.query_embed.weight.repeat(2, 1))
        model.train().detector.backbone.eval()
        losses.append(model(batch))
    assert losses[0].keys() == losses[1].keys()
    for key, loss in losses[0].items():
        torch.testing.assert_close(losses[1][key], loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr"])
def test_panoptic(name: str) -> None:
    variant, detr = MODELS[name]
    cfg = panoptic_cfg(variant, f"convergence_panoptic_{name}")
    cfg.merge_from_list([x for key, v in detr.items() for x in (f"MODEL.DETR.{key.replace('__', '.')}", v)])
    model, batch = build(cfg), make_mask_batch(SIZES, [3, 1])
    assert_trains(model, batch)
    with torch.no_grad():
        for result in model.eval()(batch):
            assert {"panoptic_seg", "instances", "sem_seg"} <= result.keys()


def labeled(labels: tuple[list[int], ...] = ([1], [0, 2])) -> list[dict[str, Any]]:
    batch = make_batch(SIZES, [0, 0])
    return [item | {"ann_type": "image", "pos_category_ids": x} for item, x in zip(batch, labels, strict=True)]


@pytest.mark.parametrize("loss", ["max_size", "first", "image", "wsddn", "pair_score"])
@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr"])
def test_image_labels(name: str, loss: str) -> None:
    """They are learned by the first group, as if it were alone."""
    if loss == "pair_score" and name != "pair_detr":
        pytest.skip("it takes two decoders")
    cfgs = [cfg_of(name, IMAGE_LABELS__LOSS=loss, QUERY_GROUPS=groups) for groups in (1, 3)]
    for cfg in cfgs:
        cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    plain, model = map(build, cfgs)
    model.load_state_dict(plain.state_dict(), strict=False)
    batch = labeled()
    losses, expected = assert_trains(model, batch), assert_trains(plain, batch)
    assert losses.keys() == expected.keys()
    assert losses["loss_image"] == pytest.approx(expected["loss_image"], rel=1e-4)
    assert losses["loss_image"] > 0
    assert all(value == 0 for key, value in losses.items() if key != "loss_image")
    boxes = assert_trains(model, make_batch(SIZES, [2, 1]))
    assert boxes.keys() == losses.keys()
    assert boxes["loss_image"] == 0


def test_classifiers_alone_learn_image_labels() -> None:
    cfg = cfg_of("pair_detr", IMAGE_LABELS__CLASSIFIER_ONLY=True)
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    model = build(cfg)
    assert assert_trains(model, labeled())["loss_image"] > 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.any() == name.startswith("detector.class_head."), name


@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr"])
def test_class_agnostic(name: str) -> None:
    model = build(cfg_of(name, CLASS_AGNOSTIC=True))
    batch = make_batch(SIZES, [3, 1])
    assert_trains(model, batch)
    assert model.detector.query_builder.denoising.label_embedding.weight.shape == (1, 32)
    assert_detects(model, batch)


@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr"])
def test_open_vocabulary(name: str, tmp_path: Path) -> None:
    variant, detr = MODELS[name]
    model = build_text_model(tmp_path, variant, **detr)
    batch = make_batch(SIZES, [3, 1])
    assert_trains(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert_trains(model, batch)
    model.set_vocabulary([*"abcde"], make_texts(5, seed=1))
    assert_detects(model, batch)
    batch[0]["instances"].gt_classes[:] = 4
    assert_trains(model, batch)


@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr"])
def test_federated_classes(name: str) -> None:
    cfg = cfg_of(name, LOSS__FEDERATED_CLASSES=2, LOSS__FEDERATED_POWER=0.0)
    assert_trains(build(cfg), make_batch(SIZES, [3, 1]))


def test_a_frozen_detector_trains_masks_alone() -> None:
    """What training adds is not made."""
    model = build(with_masks("pair_detr", MASK__FREEZE_DETECTOR=True))
    losses = assert_trains(model, make_mask_batch(SIZES, [3, 1]))
    assert losses.keys() == {"loss_mask", "loss_dice"}


@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr"])
def test_the_image_with_a_cost_that_is_not_finite_is_named(name: str) -> None:
    """Images are counted once, whatever the groups."""
    model, batch = build(cfg_of(name)).train(), make_batch(SIZES, [1, 2])
    batch[1]["instances"].gt_boxes.tensor[1, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"image1\.png"):
        model(batch)


@pytest.mark.parametrize("name", ["conditional_detr", "pair_detr"])
def test_one_query_and_one_layer(name: str) -> None:
    """Where nothing is left to refine, and tokens are fewer than queries."""
    assert_trains(build(cfg_of(name, NUM_QUERIES=1, DEC_LAYERS=1)), make_batch(SIZES, [3, 1]))
    model = build(cfg_of(name, NUM_QUERIES=60))
    batch = make_batch([(16, 24), (32, 32)], [2, 1])
    assert_trains(model, batch)
    assert_detects(model, batch)


@pytest.mark.parametrize("variant", ["detr", "conditional_detr", "pair_detr"])
@pytest.mark.parametrize("shared", [False, True])
def test_residuals_that_start_at_zero(variant: str, shared: bool) -> None:
    """But for biases, all blocks are identities: a decoder ends in the norm of what it starts from. All still learn."""
    if shared and variant != "pair_detr":
        pytest.skip("it takes two decoders")
    pair = {"PAIR__SHARED_DECODER": shared} if variant == "pair_detr" else {}
    cfg = tiny_cfg(variant, ZERO_INIT_RESIDUAL=True, DROPOUT=0.0, **pair)
    detector = build_model(cfg).detector
    for name, parameter in detector.named_parameters():
        if name.endswith("linear2.bias"):
            nn.init.zeros_(parameter)
    tokens = torch.randn(2, 5, 32)
    memory = Memory(tokens, torch.randn(1, 5, 32), None)
    normalized = nn.functional.layer_norm(tokens, (32,))
    torch.testing.assert_close(detector.encoder(memory).tokens, normalized, atol=1e-4, rtol=1e-3)
    content = torch.randn(4, 32)
    for name in detector.decoder_names.values():
        states, _ = getattr(detector, name)(memory, Queries(torch.randn(4, 32), content=content))
        expected = nn.functional.layer_norm(content, (32,)).expand(len(states), 2, -1, -1)
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-3)
    model = build_model(cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        sum(model(make_batch(SIZES, [2, 1])).values()).backward()
        optimizer.step()
    last = {name: x for name, x in model.named_parameters() if name.endswith(("out_proj.weight", "linear2.weight"))}
    # DETR's states are zero at first, and the first attention among them has nothing to pass on.
    assert {name for name, x in last.items() if not x.any()} <= {"detector.decoder.layers.0.self_attn.out_proj.weight"}


def test_one_to_many_queries_alone_train_the_second_decoder() -> None:
    """No corner and no contrastive loss."""
    weights = {"PAIR__TOP_LEFT_WEIGHT": 0.0, "PAIR__CONTRASTIVE_WEIGHT": 0.0, "LOSS__CLASSIFICATION": "mal"}
    model = build(tiny_cfg("pair_detr", PAIR__QUERIES_PER_OBJECT=4, **weights))
    sum(model(make_batch(SIZES, [2, 1])).values()).backward()
    assert model.detector.top_left_decoder.layers[0].ffn.linear1.weight.grad.abs().sum() > 0
    for idle in ({}, {"PAIR__QUERIES_PER_OBJECT": 4, "PAIR__ONE_TO_MANY_WEIGHT": 0.0}):
        with pytest.raises(ValueError, match="nothing would train the top-left decoder"):
            build(tiny_cfg("pair_detr", **weights, **idle))
