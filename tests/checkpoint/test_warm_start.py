"""Models that start from the weights of another one."""

from functools import partial
from pathlib import Path

import pytest
import torch
from model_helpers import build, tiny_cfg, tiny_resnet_cfg
from open_vocabulary_helpers import text_cfg
from torch import Tensor

from pair_detr.checkpoint import warm_start
from pair_detr.checkpoint.warm_start import MisfitError, WarmStart, require_agreement
from pair_detr.modeling import PairDETR

# The variant with the most parts.
adapt_state_dict = partial(warm_start.adapt_state_dict, detector=PairDETR)


def weights_of(cfg) -> dict[str, Tensor]:
    """A state dict whose values no fresh model has."""
    torch.manual_seed(1)
    state = build(cfg).state_dict()
    return {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in state.items()}


def rows_of(result: WarmStart) -> dict[str, str]:
    return {key: action for key, *_, action in result.rows}


@pytest.mark.parametrize("variant", ["pair_detr", "conditional_detr", "detr"])
def test_the_same_model_is_taken_whole(variant: str) -> None:
    weights = weights_of(tiny_cfg(variant))
    result = adapt_state_dict(weights, build(tiny_cfg(variant)).state_dict())
    assert result.rows == []
    assert result.state.keys() == weights.keys()
    assert all(result.state[key] is weights[key] for key in weights)


def test_pair_detr_starts_both_decoders_from_conditional_detr() -> None:
    weights = weights_of(tiny_cfg("conditional_detr"))
    model = build(tiny_cfg("pair_detr"))
    result = adapt_state_dict(weights, model.state_dict())
    assert result.state.keys() == model.state_dict().keys()
    model.load_state_dict(result.state)
    decoder, corners = model.detector.decoder, model.detector.top_left_decoder
    for (name, a), b in zip(decoder.named_parameters(), corners.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, weights[f"detector.decoder.{name}"]), name
    box, corner = model.detector.box_head.mlp.layers[-1], model.detector.top_left_head.mlp.layers[-1]
    assert torch.equal(corner.weight, box.weight[:2])
    assert torch.equal(corner.bias, box.bias[:2])
    rows = rows_of(result)
    assert rows["detector.top_left_head.mlp.layers.2.weight"].startswith("first 2 taken, from detector.box_head")
    assert rows["detector.top_left_decoder.*"].startswith("started as decoder")
    assert "| detector.top_left_head.mlp.layers.2.bias" in result.table()


def test_conditional_detr_leaves_out_the_top_left_decoder() -> None:
    weights = weights_of(tiny_cfg("pair_detr"))
    model = build(tiny_cfg("conditional_detr")).state_dict()
    result = adapt_state_dict(weights, model)
    assert result.state.keys() == model.keys()
    assert rows_of(result)["detector.top_left_decoder.*"].startswith("left out")


@pytest.mark.parametrize(("ours", "theirs"), [(7, 4), (4, 7)])
def test_queries_are_sliced_or_extended(ours: int, theirs: int) -> None:
    weights = weights_of(tiny_cfg(NUM_QUERIES=theirs))
    model = build(tiny_cfg(NUM_QUERIES=ours)).state_dict()
    fitted = adapt_state_dict(weights, model).state["detector.query_embed.weight"]
    assert len(fitted) == ours
    assert torch.equal(fitted[:4], weights["detector.query_embed.weight"][:4])
    if ours == 7:
        assert torch.equal(fitted[4:], model["detector.query_embed.weight"][4:])


@pytest.mark.parametrize("variant", ["conditional_detr", "detr"])
def test_rows_of_classes_are_taken_by_name(variant: str) -> None:
    weights = weights_of(tiny_cfg(variant, NUM_CLASSES=4))
    model = build(tiny_cfg(variant, NUM_CLASSES=3)).state_dict()
    result = adapt_state_dict(weights, model, ["cat", "dog", "owl", "car"], ["owl", "helmet", "cat"])
    for name in ("weight", "bias"):
        key = f"detector.class_head.{name}"
        fitted, old = result.state[key], weights[key]
        assert torch.equal(fitted[0], old[2])
        assert torch.equal(fitted[1], model[key][1])
        assert torch.equal(fitted[2], old[0])
        if variant == "detr":
            assert torch.equal(fitted[3], old[4])
    assert rows_of(result)["detector.class_head.bias"].startswith("rows of 2 classes of the same name taken")
    # The same number of classes in another order.
    result = adapt_state_dict(weights, weights, ["cat", "dog", "owl", "car"], ["car", "cat", "dog", "owl"])
    assert torch.equal(result.state["detector.class_head.weight"][1], weights["detector.class_head.weight"][0])


def test_classes_without_names_start_anew_if_their_number_differs() -> None:
    weights, model = weights_of(tiny_cfg(NUM_CLASSES=4)), build(tiny_cfg()).state_dict()
    result = adapt_state_dict(weights, model)
    assert "detector.class_head.weight" not in result.state
    assert rows_of(result)["detector.class_head.weight"] == "random start"


def test_a_classifier_of_another_kind_starts_anew() -> None:
    weights, model = weights_of(tiny_cfg()), build(tiny_cfg()).state_dict()
    del model["detector.class_head.weight"], model["detector.class_head.bias"]
    model["detector.class_head.projection.weight"] = torch.zeros(5, 32)
    result = adapt_state_dict(weights, model)
    assert rows_of(result)["detector.class_head.projection.weight"] == "random start"
    assert rows_of(result)["detector.class_head.*"].startswith("left out (2 keys)")


def test_texts_of_another_width_start_anew(tmp_path: Path) -> None:
    """As the classifier's projection does."""
    cfg = text_cfg(tmp_path)
    cfg.MODEL.CLIP.QUERIES = "content"
    weights, model = weights_of(cfg), build(cfg).state_dict()
    key = "detector.query_builder.text_conditioning.projection.weight"
    model[key] = torch.zeros(32, 20)
    assert rows_of(adapt_state_dict(weights, model))[key] == "random start"


def test_both_decoders_attend_to_texts_alike(tmp_path: Path) -> None:
    models = {}
    for variant in ("conditional_detr", "pair_detr"):
        cfg = text_cfg(tmp_path, variant)
        cfg.MODEL.CLIP.QUERIES = "cross_attention"
        models[variant] = build(cfg)
    weights = models["conditional_detr"].state_dict()
    result = adapt_state_dict(weights, models["pair_detr"].state_dict(), detector=type(models["pair_detr"].detector))
    for name in ("attn.in_proj_weight", "norm.bias"):
        own, theirs = (f"detector.{part}.layers.1.text_attention.{name}" for part in ("top_left_decoder", "decoder"))
        assert torch.equal(result.state[own], weights[theirs])


def test_a_backbone_alone() -> None:
    weights = {k: v for k, v in weights_of(tiny_resnet_cfg()).items() if k.startswith("detector.backbone.")}
    result = adapt_state_dict(weights, build(tiny_resnet_cfg()).state_dict())
    assert result.state.keys() == weights.keys()
    assert rows_of(result)["detector.encoder.*"].startswith("random start")
    # A part of it is no backbone.
    weights.pop("detector.backbone.res4.1.conv1.weight")
    with pytest.raises(MisfitError, match=r"backbone: detector\.backbone\.res4\.1\.conv1\.weight is missing .*DEPTH"):
        adapt_state_dict(weights, build(tiny_resnet_cfg()).state_dict())


@pytest.mark.parametrize(
    ("weights", "model", "message"),
    [
        (("detr", {}), ("pair_detr", {}), r"decoder: detector\.decoder\..*VARIANT"),
        (("conditional_detr", {}), ("detr", {}), r"decoder: detector\.decoder\..*VARIANT"),
        (("pair_detr", {"DEC_LAYERS": 2}), ("pair_detr", {}), r"decoder: .*is missing.*DEC_LAYERS"),
        (("pair_detr", {"ENC_LAYERS": 3}), ("pair_detr", {}), r"encoder: .*is left over.*ENC_LAYERS"),
        (("pair_detr", {"FFN_DIM": 32}), ("pair_detr", {}), r"linear1\.weight is 32 x 32, not 64 x 32"),
        (("pair_detr", {"HIDDEN_DIM": 16}), ("pair_detr", {}), r"input_proj: .*HIDDEN_DIM"),
    ],
)
def test_other_models_are_refused(weights: tuple, model: tuple, message: str) -> None:
    with pytest.raises(MisfitError, match=rf"(?s)weights are of another model.*{message}"):
        adapt_state_dict(
            weights_of(tiny_cfg(weights[0], **weights[1])), build(tiny_cfg(model[0], **model[1])).state_dict()
        )


def test_a_detector_that_lacks_a_part_is_refused() -> None:
    weights = {k: v for k, v in weights_of(tiny_cfg()).items() if not k.startswith("detector.encoder.")}
    with pytest.raises(MisfitError, match=r"encoder: detector\.encoder\..* is missing"):
        adapt_state_dict(weights, build(tiny_cfg()).state_dict())


def test_names_of_classes_may_repeat() -> None:
    weights, model = weights_of(tiny_cfg()), build(tiny_cfg()).state_dict()
    fitted = adapt_state_dict(weights, model, ["a", "a", "b"], ["b", "a", "a"]).state["detector.class_head.weight"]
    assert torch.equal(fitted, weights["detector.class_head.weight"][[2, 0, 1]])


def test_classes_without_a_common_name_do_not_determine_a_model() -> None:
    weights, model = weights_of(tiny_cfg()), build(tiny_cfg()).state_dict()
    result = adapt_state_dict(weights, model, ["a", "b", "c"], ["x", "y", "z"])
    assert torch.equal(result.state["detector.class_head.weight"], weights["detector.class_head.weight"])
    assert "detector.class_head.weight" in result.uninitialized


def test_two_decoders_do_not_become_one_in_silence() -> None:
    separate, shared = weights_of(tiny_cfg()), build(tiny_cfg(PAIR__SHARED_DECODER=True))
    state = shared.state_dict()
    with pytest.raises(MisfitError, match=r"shares .*decoder\.layers.*SHARED_DECODER False"):
        require_agreement(state, adapt_state_dict(separate, state).state)
    require_agreement(state, state)
    require_agreement(separate, adapt_state_dict(state, separate).state)


def test_nan_is_no_difference() -> None:
    """Neither of a key and itself, nor of two keys with the same values."""
    state = build(tiny_cfg("pair_detr", PAIR__SHARED_DECODER=True)).state_dict()
    weights = {key: value.clone() for key, value in state.items()}
    for value in weights.values():
        if value.is_floating_point():
            value[(0,) * value.dim()] = float("nan")
    require_agreement(state, weights)


class LargerPairDETR(PairDETR):
    extra_parts = frozenset({"more"})


def test_a_subclass_has_the_extra_parts_of_its_parents() -> None:
    weights = weights_of(tiny_cfg("conditional_detr"))
    model = build(tiny_cfg(PAIR__PROJECTION_DIM=8)).state_dict() | {"detector.more.weight": torch.zeros(2)}
    start = warm_start.adapt_state_dict(weights, model, detector=LargerPairDETR)
    assert {"detector.more.weight", "detector.center_projection.weight"} <= set(start.uninitialized)
    key = "detector.top_left_decoder.norm.weight"
    assert torch.equal(start.state[key], weights["detector.decoder.norm.weight"])
