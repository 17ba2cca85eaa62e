"""Recomputed attention of queries that are selected, refined and biased by their boxes."""

from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import build, make_batch, tiny_cfg

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.visualization.attention import AttentionRecorder
from pair_detr.visualization.attention_report import report_attention

BOXES = {"DENSE__ENABLED": True, "QUERY_SELECTION": "boxes", "BOX_REFINEMENT": "layers", "BOX_BIAS": True}


@pytest.mark.parametrize("variant", ["conditional_detr", "pair_detr"])
@torch.no_grad()
def test_weights_with_a_bias_make_the_output(variant: str) -> None:
    model = build(tiny_cfg(variant, **BOXES)).eval()
    batch = model.preprocess(make_batch([(40, 56), (32, 24)], [0, 0]))
    with AttentionRecorder(model.detector) as recorder:
        model.detector(batch)
    call = recorder.calls["decoder", 1, "cross_attn"]
    assert call.key_mask.shape == (2, 4, 7, 35)
    mixed = (call.weights() @ call.value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed, call.output, atol=1e-5, rtol=1e-4)
    # The padding stays out of the parts, and the bias with it.
    is_padding = call.key_mask.isneginf()
    assert is_padding.any()
    half = call.query.shape[-1] // 2
    for part, channels in ((call.content, slice(None, half)), (call.spatial, slice(half, None))):
        logits = call.query[..., channels] @ call.key[..., channels].transpose(-1, -2) / (2 * half) ** 0.5
        expected = logits.masked_fill(is_padding, float("-inf")).softmax(-1)
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-4)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("conditional_detr", BOXES),
    ("conditional_detr", {"DENSE__ENABLED": True, "QUERY_SELECTION": "points"}),
    ("pair_detr", BOXES | {"PAIR__QUERIES_PER_OBJECT": 4}),
    ("pair_detr", BOXES | {"PAIR__QUERIES_PER_OBJECT": 4, "PAIR__CLASS_DECODER": "top_left", "QUERY_GROUPS": 3}),
]


@pytest.mark.parametrize(("variant", "detr"), CASES)
@torch.no_grad()
def test_points_are_those_that_the_layer_looks_from(variant: str, detr: dict[str, Any]) -> None:
    model = build(tiny_cfg(variant, **detr)).eval()
    (item,) = make_batch([(40, 56)], [0])
    batch = model.preprocess([item])
    memory = model.detector.encode(batch)
    queries = model.detector.build_queries(memory, None).queries
    _, reference = model.detector.decoder(memory, queries)
    for layer in (0, 2):
        report = report_attention(model, item, 3, layer=layer)
        at = (reference[layer] if reference.dim() == 4 else reference)[0, report.queries, :2]
        np.testing.assert_allclose(report.reference["center"], (at * torch.tensor([56, 40])).numpy(), rtol=1e-4)
        if variant == "pair_detr":
            corner = cxcywh_to_xyxy(queries.reference)[0, report.queries, :2].clamp(0, 1) * torch.tensor([56, 40])
            np.testing.assert_allclose(report.reference["top_left"], corner.numpy(), rtol=1e-4, atol=1e-4)
        for maps in report.cross.values():
            np.testing.assert_allclose(maps["combined"].sum((2, 3)), 1, rtol=1e-4)
