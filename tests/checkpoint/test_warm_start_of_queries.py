"""Models that select, group and denoise queries start from the weights of those that do not, and the reverse."""

from typing import Any

import pytest
import torch
from model_helpers import build, make_batch, tiny_cfg
from open_vocabulary_helpers import text_cfg

from pair_detr.checkpoint import required_config
from pair_detr.checkpoint.weights import CheckpointError, Weights, load_weights, require_config
from pair_detr.modeling.meta_arch import DetectionTransformer

ALL: dict[str, Any] = {
    "DENSE__ENABLED": True,
    "QUERY_SELECTION": "boxes",
    "QUERY_GROUPS": 2,
    "DENOISING__GROUPS": 2,
    "BOX_BIAS": True,
    "BOX_REFINEMENT": "layers",
}
BUILDER, BIAS = "detector.query_builder.", "detector.decoder.box_bias."


def trained(variant: str, **detr: Any) -> DetectionTransformer:
    """Values that no fresh model has."""
    model = build(tiny_cfg(variant, **detr))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def start(
    model: DetectionTransformer,
    source: DetectionTransformer,
    names: list[str] | None = None,
    config: dict[str, Any] | None = None,
) -> None:
    load_weights(model, Weights("file.pth", "this package's", dict(source.state_dict()), names, config or {}))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("variant", ["conditional_detr", "pair_detr"])
def test_from_conditional_detr(variant: str, shared: bool) -> None:
    source = trained("conditional_detr")
    model = build(tiny_cfg(variant, PAIR__SHARED_DECODER=shared, **ALL))
    fresh = {name: x.clone() for name, x in model.state_dict().items()}
    start(model, source)
    found = model.state_dict()
    for name, value in source.state_dict().items():
        assert torch.equal(found[name], value), name
    for name in found:
        if name.startswith((BUILDER, BIAS)):
            assert torch.equal(found[name], fresh[name]), name
    losses = model.train()(make_batch([(40, 48)], [2]))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (True, True), (False, False)])
def test_a_head_of_boxes_in_other_units_starts_anew(before: bool, after: bool) -> None:
    """Offsets in units of a box's size are no differences of logits; the tensors look alike."""
    selected = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes"}
    source = trained("conditional_detr", **selected, RELATIVE_BOXES=before)
    model = build(tiny_cfg("pair_detr", **selected, RELATIVE_BOXES=after))
    fresh = {name: x.clone() for name, x in model.state_dict().items()}
    start(model, source, config={"MODEL.DETR.RELATIVE_BOXES": before})
    found = model.state_dict()
    for name, value in source.state_dict().items():
        is_new = before != after and name.startswith("detector.box_head.")
        assert torch.equal(found[name], fresh[name] if is_new else value), name
    # Points are never relative.
    weight = "mlp.layers.0.weight"
    assert torch.equal(found[f"detector.top_left_head.{weight}"], source.state_dict()[f"detector.box_head.{weight}"])


def test_weights_that_do_not_say_their_units() -> None:
    """Those of a model that selects no boxes are not relative; of one that does, the config is taken at its word."""
    selected = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes", "RELATIVE_BOXES": True}
    model, weight = build(tiny_cfg("conditional_detr", **selected)), "detector.box_head.mlp.layers.0.weight"
    published, same = trained("conditional_detr"), trained("conditional_detr", **selected)
    start(model, published)
    assert not torch.equal(model.state_dict()[weight], published.state_dict()[weight])
    load_weights(model, Weights("file.pth", "this package's", dict(same.state_dict()), None, {}), complete=True)
    assert torch.equal(model.state_dict()[weight], same.state_dict()[weight])


def test_to_conditional_detr() -> None:
    source, model = trained("pair_detr", **ALL), build(tiny_cfg("conditional_detr"))
    start(model, source)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"DENSE__ENABLED": True}, ALL),
        (ALL, {"DENSE__ENABLED": True}),
        (ALL, ALL | {"QUERY_GROUPS": 3}),
        (ALL | {"QUERY_GROUPS": 3}, ALL),
        (ALL | {"DENOISING__GROUPS": 0}, ALL),
    ],
)
def test_what_both_have_is_taken(before: dict[str, Any], after: dict[str, Any]) -> None:
    source, model = trained("conditional_detr", **before), build(tiny_cfg("conditional_detr", **after))
    start(model, source)
    given, found = source.state_dict(), model.state_dict()
    for name in given.keys() & found.keys():
        a, b = given[name].view(given[name].shape or 1), found[name].view(found[name].shape or 1)
        rows = min(len(a), len(b))
        assert torch.equal(a[:rows], b[:rows]), name


@pytest.mark.parametrize("count", [2, 5])
def test_another_number_of_classes(count: int) -> None:
    """The classifier of the tokens goes by names, as that of the queries does."""
    source = trained("conditional_detr", **ALL)
    model = build(tiny_cfg("conditional_detr", NUM_CLASSES=count, **ALL))
    model.class_names = ["dog", "cat", "cow", "owl", "elk"][:count]
    start(model, source, ["cat", "dog", "hen"])
    for head in ("detector.class_head.", f"{BUILDER}dense_head.class_head."):
        for name in ("weight", "bias"):
            given, found = source.state_dict()[head + name], model.state_dict()[head + name]
            assert torch.equal(found[:2], given[[1, 0]]), head
    assert all(loss.isfinite() for loss in model.train()(make_batch([(40, 48)], [0])).values())


def test_text_classifiers_from_linear_ones(tmp_path: Any) -> None:
    source, model = trained("conditional_detr", **ALL), build(text_cfg(tmp_path, "conditional_detr", **ALL))
    start(model, source)
    for name in ("query_embed.weight", "query_builder.dense_head.project.weight", "decoder.box_bias.0.x.layers.0.bias"):
        assert torch.equal(model.state_dict()[f"detector.{name}"], source.state_dict()[f"detector.{name}"])


def test_weights_know_what_their_boxes_are_relative_to() -> None:
    """Their tensors do not show it; what they were trained towards does not matter."""
    cfg = tiny_cfg("pair_detr", **ALL, LOSS__CLASSIFICATION="mal")
    required = required_config(cfg)
    require_config(required, tiny_cfg("pair_detr", **ALL), "They do")
    require_config(required_config(tiny_cfg("pair_detr")), cfg, "They do")
    for key, value in (("BOX_REFINEMENT", "none"), ("RELATIVE_BOXES", True), ("QUERY_SELECTION", "points")):
        other = tiny_cfg("pair_detr", **ALL | {key: value})
        with pytest.raises(CheckpointError, match=rf"MODEL\.DETR\.{key}"):
            require_config(required, other, "They do")


def test_other_widths_are_still_refused() -> None:
    with pytest.raises(CheckpointError, match="HIDDEN_DIM"):
        start(build(tiny_cfg("conditional_detr", HIDDEN_DIM=16, **ALL)), trained("conditional_detr", **ALL))
