"""Parameters and operations of models."""

import pytest
from model_helpers import build, tiny_cfg

from pair_detr.analysis.flops import count_flops, module_costs


def test_operations_of_a_tiny_detr_are_those_counted_by_hand() -> None:
    """Multiply-adds of 32 x 48 pixels at stride 8 (M = 24 cells), D = 32, Q = 7, FFN 64, and 5 per LayerNorm value."""
    model = build(tiny_cfg("detr")).eval()
    flops, uncounted = count_flops(model.detector, 32, 48)
    cells, dim, queries, ffn = 24, 32, 7, 64
    norm = 5 * dim
    encoder_layer = (
        4 * cells * dim * dim  # query, key, value and output projection
        + 2 * cells * cells * dim  # query times key, weights times value
        + 2 * cells * dim * ffn
        + 2 * cells * norm
    )
    assert flops["encoder.layers.0"] == pytest.approx(encoder_layer)
    assert flops["encoder"] == 2 * flops["encoder.layers.0"]
    decoder_layer = (
        4 * queries * dim * dim + 2 * queries * queries * dim  # self-attention
        + 2 * queries * dim * dim + 2 * queries * cells * dim  # cross-attention; the decoder projects key and value
        + 2 * queries * dim * ffn
        + 3 * queries * norm
    )  # fmt: skip
    assert flops["decoder.layers.0"] == decoder_layer
    assert flops["decoder"] == 3 * (decoder_layer + 2 * cells * dim * dim) + 3 * queries * norm
    assert flops["class_head"] == queries * dim * 4
    assert flops["box_head"] == queries * (2 * dim * dim + dim * 4)
    assert flops["input_proj"] == cells * 8 * dim
    assert flops[""] == sum(flops[name] for name in dict(model.detector.named_children()))
    assert not {name for name in uncounted if any(word in name for word in ("linear", "conv", "matmul", "attention"))}


def test_pair_detr_costs_what_conditional_detr_does() -> None:
    pair, conditional = (
        count_flops(build(tiny_cfg(v)).eval().detector, 32, 48)[0] for v in ("pair_detr", "conditional_detr")
    )
    assert pair[""] == conditional[""] > 0
    assert pair["top_left_decoder"] == 0
    # Queries and keys are twice as wide as values: 3 dims where standard attention has 2.
    standard = count_flops(build(tiny_cfg("detr")).eval().detector, 32, 48)[0]
    spatial_query = 7 * 32 * 32
    difference = conditional["decoder.layers.1.cross_attn"] - standard["decoder.layers.1.cross_attn.out_proj"]
    assert difference == 7 * 24 * 3 * 32 + 2 * spatial_query


def test_costs_of_modules_have_a_depth() -> None:
    model = build(tiny_cfg()).eval().detector
    flops = {(32, 48): count_flops(model, 32, 48)[0], (16, 16): count_flops(model, 16, 16)[0]}
    rows = {row["module"]: row for row in module_costs(model, flops, depth=2)}
    assert rows[""]["parameters"] == rows[""]["trained"] == sum(p.numel() for p in model.parameters())
    assert rows[""]["flops"] == {"32x48": flops[32, 48][""], "16x16": flops[16, 16][""]}
    assert rows.keys() >= {"encoder", "encoder.layers", "top_left_decoder", "box_head"}
    assert not [name for name in rows if name.count(".") > 1]
    model.encoder.requires_grad_(False)
    (row,) = [row for row in module_costs(model, flops, depth=1) if row["module"] == "encoder"]
    assert row["trained"] == 0 < row["parameters"]
