"""Weights that fit no known code base exactly."""

import pytest
import torch
from conversion_helpers import laid_out, layout_of, official_state, tiny_state
from torch import Tensor

from pair_detr.checkpoint import ConversionError
from pair_detr.checkpoint.formats.registry import match_layout, recognize


def drop(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {key: x for key, x in state.items() if not any(part in key for part in parts)}


def test_a_missing_key_is_named() -> None:
    state = drop(official_state("conditional_detr", 50), "layers.3.ca_v_proj.bias")
    with pytest.raises(ConversionError, match=r"official Conditional DETR: 1 keys missing, 0 unexpected\n.*missing: "):
        recognize(state)
    with pytest.raises(ConversionError, match=r"transformer\.decoder\.layers\.3\.ca_v_proj\.bias"):
        recognize(state, "conditional_detr")


def test_a_missing_part_of_a_joined_tensor_is_named() -> None:
    state = laid_out(tiny_state("detr"), layout_of("transformers", "detr"))
    del state["model.decoder.layers.0.self_attn.k_proj.weight"]
    match = match_layout(state, layout_of("transformers", "detr"))
    assert match.missing == ["model.decoder.layers.0.self_attn.k_proj.weight"]
    assert not match.is_exact


def test_a_left_over_key_is_named() -> None:
    state = official_state("detr", 50) | {"bbox_attention.q_linear.weight": torch.empty(1, device="meta")}
    with pytest.raises(ConversionError, match=r"unexpected: bbox_attention\.q_linear\.weight"):
        recognize(state)


def test_a_projection_that_no_layer_has_is_left_over() -> None:
    state = official_state("conditional_detr", 50)
    state["transformer.decoder.layers.4.ca_qpos_proj.bias"] = torch.empty(256, device="meta")
    with pytest.raises(ConversionError, match=r"unexpected: transformer\.decoder\.layers\.4\.ca_qpos_proj\.bias"):
        recognize(state)


def test_a_wrong_shape_is_named() -> None:
    state = official_state("detr", 50) | {"transformer.decoder.norm.bias": torch.empty(7, device="meta")}
    with pytest.raises(ConversionError, match=r"decoder\.norm\.bias is \(7,\), expected \(256,\)"):
        recognize(state)


def test_an_uncommon_depth_is_named() -> None:
    state = drop(official_state("detr", 50), "layer3.5.")
    with pytest.raises(ConversionError, match=r"\(3, 4, 5, 3\) bottlenecks"):
        recognize(state)


def test_without_a_part_that_tells_sizes() -> None:
    with pytest.raises(ConversionError, match=r"missing: query_embed\.weight"):
        recognize(drop(official_state("detr", 50), "query_embed"))


def test_the_closest_sources_are_listed() -> None:
    state = drop(official_state("detr", 50), "transformer.decoder.layers.2")
    with pytest.raises(ConversionError, match="fit no known source exactly") as caught:
        recognize(state)
    assert "official DETR: 18 keys missing" in str(caught.value)


def test_unknown_weights() -> None:
    state = {"text_model.encoder.weight": torch.zeros(1)}
    with pytest.raises(ConversionError, match=r"of no known source.*text_model\.encoder\.weight"):
        recognize(state)
    with pytest.raises(ConversionError, match="not of source mmdet"):
        recognize(state, "mmdet")


def test_a_source_that_is_not_the_file_s() -> None:
    with pytest.raises(ConversionError, match="They are official DETR's: leave out --source mmdet"):
        recognize(official_state("detr", 50), "mmdet")
    with pytest.raises(ConversionError, match="choose auto, detr"):
        recognize({}, "dino")
