"""Queries that are selected, grouped and refined; what training adds changes no detection."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_helpers import build, make_batch, tiny_cfg
from torch import Tensor

from pair_detr.layers import inverse_sigmoid
from pair_detr.modeling.heads import LocationHead
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.structures import Memory, Predictions, Queries

SIZES = [(40, 48), (64, 96)]
BOXES = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes"}
ALL = BOXES | {
    "QUERY_GROUPS": 2,
    "DENOISING__GROUPS": 2,
    "DENOISING__NEGATIVES": True,
    "BOX_REFINEMENT": "look_forward_twice",
    "BOX_BIAS": True,
    "RELATIVE_BOXES": True,
    "LOSS__CLASSIFICATION": "mal",
}
TWO_DECODERS = ("conditional_detr", "pair_detr")


def patch_model(variant: str = "conditional_detr", **detr: Any) -> DetectionTransformer:
    """Its backbone does not mix image and padding."""
    cfg = tiny_cfg(variant, **detr)
    cfg.MODEL.BACKBONE.NAME = "build_patch_backbone"
    return build(cfg)


def copied(source: DetectionTransformer, variant: str = "conditional_detr", **detr: Any) -> DetectionTransformer:
    """A model with the same weights, as far as both have them."""
    model = patch_model(variant, **detr)
    own, given = model.state_dict(), source.state_dict()
    model.load_state_dict({key: x for key, x in given.items() if key in own}, strict=False)
    return model


def encoded(model: DetectionTransformer, batch: list[dict[str, Any]]) -> Memory:
    return model.detector.encode(model.preprocess(batch))


def predict(model: DetectionTransformer, batch: list[dict[str, Any]]) -> Predictions:
    images = model.preprocess(batch)
    return model.detector(images, model.pack_targets(batch, images) if model.training else None)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", ["conditional_detr", "pair_detr", "detr"])
def test_all_off_is_the_learned_queries(variant: str, training: bool) -> None:
    model = build(tiny_cfg(variant)).train(training)
    detector, batch = model.detector, make_batch(SIZES, [2, 1])
    memory = encoded(model, batch)
    built = detector.build_queries(memory, detector.denoise(model.pack_targets(batch, model.preprocess(batch))))
    assert not list(detector.query_builder.parameters())
    assert built.queries.position is detector.query_embed.weight
    assert replace(built.queries, position=None) == Queries(None)
    assert (built.num_queries, built.num_groups, built.denoising, built.auxiliary) == (7, 1, None, {})
    states, reference = detector.decoder(memory, Queries(detector.query_embed.weight))
    states = states if training else states[-1:]
    found = detector.decode(memory)
    assert torch.equal(found.logits, detector.class_head(states))
    assert torch.equal(found.boxes, detector.box_head(states, reference))


@pytest.mark.parametrize("variant", TWO_DECODERS)
def test_training_only_parts_change_no_detection(variant: str) -> None:
    """With the weights of a model without them; its predictions in training neither."""
    extra = {"PAIR__QUERIES_PER_OBJECT": 3} if variant == "pair_detr" else {}
    cases = [
        ({}, {"DENSE__ENABLED": True, "QUERY_GROUPS": 3} | extra),
        (BOXES, {**BOXES, "QUERY_GROUPS": 3, "DENOISING__GROUPS": 2, "DENOISING__NEGATIVES": True} | extra),
    ]
    batch = make_batch(SIZES, [2, 1])
    for plain, more in cases:
        model = patch_model(variant, **more).eval()
        expected = copied(model, variant, **plain).eval()
        with torch.no_grad():
            for found, wanted in zip(model(batch), expected(batch), strict=True):
                assert torch.equal(found["instances"].pred_boxes.tensor, wanted["instances"].pred_boxes.tensor)
                assert torch.equal(found["instances"].scores, wanted["instances"].scores)
            found, wanted = predict(model.train(), batch), predict(expected.train(), batch)
        assert found.groups == 3
        close(found.logits[:, ::3], wanted.logits)
        close(found.boxes[:, ::3], wanted.boxes)
        assert found.auxiliary.keys() >= {"dense"}


@torch.no_grad()
@pytest.mark.parametrize("selection", ["points", "boxes"])
def test_queries_look_from_the_best_tokens(selection: str) -> None:
    model = patch_model(DENSE__ENABLED=True, QUERY_SELECTION=selection).eval()
    memory = encoded(model, make_batch(SIZES, [0, 0]))
    builder = model.detector.query_builder
    dense = builder.dense_head(memory)
    queries = model.detector.build_queries(memory, None).queries
    width = 2 if selection == "points" else 4
    for image in range(2):
        valid = memory.key_mask[image, 0, 0]
        scores = torch.where(valid, dense.logits[0, image].amax(-1), -torch.inf)
        best = scores.argsort(descending=True)[:7]
        assert torch.equal(queries.reference[image], dense.boxes[0, image, best, :width])
    assert torch.equal(queries.content, model.detector.query_embed.weight.expand(2, -1, -1))
    assert queries.position.shape == (2, 7, 32)
    assert torch.equal(queries.position, builder.embed_reference(queries.reference))


@pytest.mark.parametrize("selection", ["points", "boxes"])
def test_the_selection_has_no_gradient(selection: str) -> None:
    """The dense head learns from its own losses alone."""
    model = patch_model(DENSE__ENABLED=True, QUERY_SELECTION=selection, DENSE__WEIGHT=0.0).train()
    sum(model(make_batch(SIZES, [2, 1])).values()).backward()
    for name, parameter in model.detector.query_builder.dense_head.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@torch.no_grad()
@pytest.mark.parametrize("variant", TWO_DECODERS)
@pytest.mark.parametrize("detr", [BOXES, BOXES | {"BOX_BIAS": True}, ALL])
def test_padding_does_not_change_predictions(variant: str, detr: dict[str, Any]) -> None:
    model = patch_model(variant, **detr).eval()
    batch = make_batch([(40, 48), (48, 96), (64, 96)], [0, 0, 0])
    together = predict(model, batch)
    for i, item in enumerate(batch):
        alone = predict(model, [item])
        torch.testing.assert_close(together.logits[:, [i]], alone.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.boxes[:, [i]], alone.boxes, atol=1e-4, rtol=1e-4)
    assert (together.boxes[:, 0] - together.boxes[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("detr", [{}, BOXES])
def test_groups_of_copies_have_the_losses_of_one(detr: dict[str, Any]) -> None:
    model = patch_model(QUERY_GROUPS=3, **detr).train()
    builder = model.detector.query_builder
    with torch.no_grad():
        builder.more_queries.weight.copy_(model.detector.query_embed.weight.repeat(2, 1))
    expected = copied(model, **detr).train()
    for counts in ([2, 1], [0, 0]):
        batch = make_batch(SIZES, counts)
        found, wanted = model(batch), expected(batch)
        assert found.keys() == wanted.keys()
        for name, loss in wanted.items():
            torch.testing.assert_close(found[name], loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", TWO_DECODERS)
def test_denoising_queries_change_no_others(variant: str) -> None:
    """Nor do the objects that they copy."""
    detr = BOXES | {"QUERY_GROUPS": 2, "BOX_BIAS": True, "BOX_REFINEMENT": "layers"}
    model = patch_model(variant, **detr, DENOISING__GROUPS=2).train()
    expected = copied(model, variant, **detr).train()
    batch = make_batch(SIZES, [3, 1])
    with torch.no_grad():
        found, wanted = predict(model, batch), predict(expected, batch)
        others = zip(batch, make_batch(SIZES, [3, 1]), strict=True)
        other = predict(model, [item | {"instances": x["instances"]} for item, x in others])
    assert found.auxiliary.keys() - wanted.auxiliary.keys() == {"denoising"}
    for name in ("logits", "boxes", "states"):
        close(getattr(found, name), getattr(wanted, name))
        close(getattr(found, name), getattr(other, name))
    assert (found.auxiliary["denoising"].boxes - other.auxiliary["denoising"].boxes).abs().max() > 1e-3


def test_denoising_groups_do_not_see_each_other() -> None:
    """With other noise of the second group, what the first predicts stays."""
    model = patch_model(**BOXES, DENOISING__GROUPS=2).train()
    batch = make_batch(SIZES, [3, 1])
    images = model.preprocess(batch)
    targets = model.pack_targets(batch, images)
    with torch.no_grad():
        before = model.detector(images, targets).auxiliary["denoising"].boxes
        targets.noise = torch.cat((targets.noise[:, :10], 1 - targets.noise[:, 10:]), dim=1)
        after = model.detector(images, targets).auxiliary["denoising"].boxes
    close(before[:, :, :3], after[:, :, :3])
    assert (before - after).abs()[:, :, 3:].max() > 1e-3


def test_sorting() -> None:
    """Groups become images, one after the other; denoising queries a branch."""
    model = patch_model("pair_detr", **BOXES, QUERY_GROUPS=2, DENOISING__GROUPS=2, DENOISING__NEGATIVES=True).train()
    batch = make_batch(SIZES, [3, 1])
    images = model.preprocess(batch)
    targets = model.pack_targets(batch, images)
    built = model.detector.build_queries(model.detector.encode(images), model.detector.denoise(targets))
    assert built.queries.groups == ((2, 7), (2, 6))
    # Layer, image and query.
    label = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (3, 2, 2 * 7 + 2 * 6)), indexing="ij"), dim=-1)
    given = Predictions(label, label + 100, label, top_left=label, pair_embeddings=(label[-1:], label[-1:]))
    found = built.sort(given)
    assert found.groups == 2
    for name in ("logits", "states", "top_left"):
        by_group = getattr(found, name)
        assert by_group.shape == (3, 4, 7, 3)
        for image in range(2):
            for group in range(2):
                queries = slice(group * 7, group * 7 + 7)
                assert torch.equal(by_group[:, 2 * image + group], label[:, image, queries]), name
    assert found.pair_embeddings[0].shape == (1, 4, 7, 3)
    assert torch.equal(found.pair_embeddings[1][0, 3], label[-1, 1, 7:14])
    branch = found.auxiliary["denoising"]
    assert torch.equal(branch.boxes, label[:, :, 14:] + 100)
    assert branch.is_counted.sum(1).tolist() == [3 * 2 * 2, 1 * 2 * 2]
    assert branch.assignment is built.denoising.assignment
    assert set(found.auxiliary) == {"dense", "denoising"}


@pytest.mark.parametrize("reference_dims", [2, 3])
def test_relative_boxes_by_hand(reference_dims: int) -> None:
    head = LocationHead(8, 4, zero_init=False, relative=True)
    states = torch.randn(2, 3, 5, 8)
    reference = torch.rand(3, 5, 4) if reference_dims == 3 else torch.rand(5, 4)
    found = head(states, reference)
    x, y, w, h = head.mlp(states).unbind(-1)
    px, py, pw, ph = reference.unbind(-1)
    expected = torch.stack((px + x * pw, py + y * ph, pw * w.exp(), ph * h.exp()), dim=-1)
    torch.testing.assert_close(found, expected)
    # From points, and without a reference, offsets are differences of logits.
    plain = LocationHead(8, 4, zero_init=False)
    plain.load_state_dict(head.state_dict())
    assert torch.equal(head(states, reference[..., :2]), plain(states, reference[..., :2]))
    torch.testing.assert_close(plain(states, reference), (plain.mlp(states) + inverse_sigmoid(reference)).sigmoid())


def test_sizes_do_not_overflow() -> None:
    head = LocationHead(8, 4, zero_init=True, relative=True)
    reference = torch.tensor([[0.3, 0.4, 0.1, 0.2]])
    torch.testing.assert_close(head(torch.randn(1, 1, 8), reference)[0], reference)
    torch.nn.init.constant_(head.mlp.layers[-1].bias, 1e4)
    assert head(torch.randn(1, 1, 8), reference)[..., 2:].max() <= 0.2 * 1000 / 16 + 1e-4


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("refinement", ["layers", "look_forward_twice"])
def test_boxes_are_changes_of_those_before(refinement: str, relative: bool) -> None:
    detr = BOXES | {"BOX_REFINEMENT": refinement, "RELATIVE_BOXES": relative, "BOX_BIAS": True}
    model = patch_model(**detr).train()
    detector, batch = model.detector, make_batch(SIZES, [2, 1])
    memory = encoded(model, batch)
    queries = detector.build_queries(memory, None).queries
    states, reference = detector.decoder(memory, queries)
    boxes = detector.decode(memory).boxes
    assert reference.shape == (3, 2, 7, 4)
    assert torch.equal(reference[0], queries.reference)
    for layer in range(3):
        torch.testing.assert_close(boxes[layer], detector.box_head(states[layer], reference[layer]))
        if layer:
            # The box of a layer is what the next one looks from.
            torch.testing.assert_close(reference[layer], boxes[layer - 1])
    assert (boxes[0] - boxes[2]).abs().max() > 1e-3


def through_boxes(refinement: str) -> list[bool]:
    """Whether the last layer's boxes have a gradient to what the box head made of each layer's states."""
    model = patch_model(**BOXES, BOX_REFINEMENT=refinement).train()
    detector, seen = model.detector, []
    memory = encoded(model, make_batch(SIZES, [2, 1]))
    queries = detector.build_queries(memory, None).queries

    def box_head(states: Tensor, reference: Tensor) -> Tensor:
        # Cut from the states, so that only what leads through boxes is left.
        leaf = states.detach().requires_grad_()
        seen.append(leaf)
        return detector.box_head(leaf, reference)

    queries.refinement = replace(queries.refinement, box_head=box_head)
    states, reference = detector.decoder(memory, queries)
    detector.box_head(states[-1].detach(), reference[-1]).sum().backward()
    return [leaf.grad is not None and bool(leaf.grad.any()) for leaf in seen]


def test_gradients_of_refinement() -> None:
    """Looking forward twice trains the layer before as well, and that alone (DINO, section 3.5)."""
    assert through_boxes("layers") == [False, False]
    assert through_boxes("look_forward_twice") == [False, True]


@torch.no_grad()
def test_attention_starts_around_the_reference_points() -> None:
    """Few cells get more attention than the one that a query looks from, whatever they contain."""
    points, side = torch.rand(200, 2), 16
    own = (points[:, 1] * side).long() * side + (points[:, 0] * side).long()
    shares = []
    for is_local in (True, False):
        model = build(tiny_cfg("conditional_detr", LOCAL_ATTENTION=is_local, HIDDEN_DIM=128), randomize=False)
        decoder, memory = model.detector.decoder, encoded(model, make_batch([(128, 128)], [0]))
        attention = decoder.layers[1].cross_attn
        encoding = decoder._encode_points(points, Queries(torch.zeros(1, 128)))[0]
        scaled = encoding * decoder.query_scale(torch.randn(200, 128))
        query, key = attention.qpos_sine_proj(scaled), attention.kpos_proj(memory.position[0])
        products = torch.einsum("qhd,mhd->qhm", query.unflatten(-1, (4, -1)), key.unflatten(-1, (4, -1)))
        above = products > products.gather(2, own[:, None, None].expand(-1, 4, 1))
        shares.append(above.float().mean().item())
    # Random projections of 32 dimensions keep the nearest only roughly.
    assert shares[0] < 0.2
    assert shares[1] > 0.35
