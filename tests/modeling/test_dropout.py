"""Where dropout acts: on attention weights, hidden units and each residual branch, in training alone.

Sources: arXiv 1706.03762, section 5.4; DETR, appendix A.3; Conditional DETR changes nothing about it.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_helpers import VARIANTS, as_batch, build, make_batch, randomize_constants, tiny_cfg
from torch import Tensor, nn

from pair_detr.layers import Dropout, attention
from pair_detr.modeling.decoder.conditional import (
    ConditionalCrossAttention,
    ConditionalDecoderLayer,
    ConditionalSelfAttention,
)
from pair_detr.modeling.decoder.standard import DecoderLayer
from pair_detr.modeling.encoder import EncoderLayer
from pair_detr.structures import Queries

DIM, HEADS, FFN, ENCODER_LAYERS, DECODER_LAYERS = 32, 4, 64, 2, 3
ATTENTION, HIDDEN, RESIDUAL = "attention weights", "hidden units", "residual"
ENCODER_LAYER = [ATTENTION, RESIDUAL, HIDDEN, RESIDUAL]
DECODER_LAYER = [ATTENTION, RESIDUAL, ATTENTION, RESIDUAL, HIDDEN, RESIDUAL]


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What may be dropped, and with which probability, in the order of the calls."""
    sites: list[tuple[str, float]] = []
    drop, attend, attend_and_drop = Dropout.forward, F.scaled_dot_product_attention, attention._attend_with_dropout

    def recording_dropout(module: Dropout, x: Tensor) -> Tensor:
        sites.append(({FFN: HIDDEN, DIM: RESIDUAL}[x.shape[-1]], module.p if module.training else 0.0))
        return drop(module, x)

    def recording_attention(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
        sites.append((ATTENTION, dropout_p))
        return attend(*args, dropout_p=dropout_p, **kwargs)

    def recording_attention_with_dropout(*args: Any) -> Tensor:
        sites.append((ATTENTION, args[-1]))
        return attend_and_drop(*args)

    monkeypatch.setattr(Dropout, "forward", recording_dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", recording_attention)
    monkeypatch.setattr(attention, "_attend_with_dropout", recording_attention_with_dropout)
    return sites


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("variant", "options", "decoders"),
    [
        ("detr", {}, 1),
        ("conditional_detr", {}, 1),
        ("pair_detr", {"PAIR__BOX_DECODING": "pair"}, 2),
        ("pair_detr", {"PAIR__BOX_DECODING": "pair", "PAIR__SHARED_DECODER": True}, 2),
    ],
)
def test_sites(
    sites: list[tuple[str, float]], variant: str, options: dict[str, Any], decoders: int, training: bool
) -> None:
    model = build(tiny_cfg(variant, DROPOUT=0.3, **options)).train(training)
    model.detector(as_batch(torch.randn(1, 3, 32, 40)))
    expected = ENCODER_LAYER * ENCODER_LAYERS + DECODER_LAYER * DECODER_LAYERS * decoders
    assert sites == [(site, 0.3 if training else 0.0) for site in expected]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dropout", "of_attention"), [(0.1, 0.0), (0.0, 0.2)])
def test_attention_weights_have_a_probability_of_their_own(
    sites: list[tuple[str, float]], variant: str, dropout: float, of_attention: float
) -> None:
    model = build(tiny_cfg(variant, DROPOUT=dropout, ATTENTION_DROPOUT=of_attention)).train()
    model.detector(as_batch(torch.randn(1, 3, 32, 40)))
    assert set(sites) == {(ATTENTION, of_attention), (HIDDEN, dropout), (RESIDUAL, dropout)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_inference_is_that_of_a_model_without_dropout(variant: str) -> None:
    batch = make_batch([(32, 40), (40, 24)], [1, 0])
    outputs = []
    for dropout in (0.5, 0.5, 0.0):
        model = build(tiny_cfg(variant, DROPOUT=dropout)).eval()
        outputs.append(model.detector(model.preprocess(batch)))
    for output in outputs[1:]:
        assert torch.equal(output.logits, outputs[0].logits)
        assert torch.equal(output.boxes, outputs[0].boxes)
    model = build(tiny_cfg(variant, DROPOUT=0.5)).train()
    images = model.preprocess(batch)
    assert not torch.equal(model.detector(images).boxes, model.detector(images).boxes)


def randomized(module: nn.Module) -> nn.Module:
    randomize_constants(module)
    return module


def cross_attention_inputs(standard: bool) -> list[Tensor | None]:
    memory = [torch.randn(2, 7, DIM) for _ in range(3)]
    return [*memory[:2], None] if standard else [torch.randn(2, 5, DIM), *memory, None]


@pytest.mark.parametrize("is_first", [True, False])
def test_conditional_attention_drops_weights(is_first: bool) -> None:
    """With all weights dropped no value arrives: nothing but the output's bias is left."""
    state, queries = torch.randn(2, 5, DIM), torch.randn(5, DIM)
    for module, inputs in (
        (ConditionalSelfAttention(DIM, HEADS, dropout=1.0), [Queries(queries)]),
        (ConditionalCrossAttention(DIM, HEADS, 1.0, is_first), [queries, *cross_attention_inputs(standard=False)]),
    ):
        randomize_constants(module)
        bias = module.out_proj.bias.expand(2, 5, DIM)
        torch.testing.assert_close(module(state, *inputs), bias)
        assert (module.eval()(state, *inputs) - bias).abs().max() > 0.1


def test_layers_drop_all_of_each_residual_branch() -> None:
    """With all branches dropped, biases of their last linear maps included, nothing but the norms is left."""
    tokens, queries = torch.randn(2, 5, DIM), torch.randn(5, DIM)
    encoder = randomized(EncoderLayer(DIM, HEADS, FFN, dropout=1.0, attention_dropout=0.0))
    torch.testing.assert_close(encoder(tokens, torch.randn(5, DIM), None), encoder.norm2(encoder.norm1(tokens)))
    for layer in (
        DecoderLayer(DIM, HEADS, FFN, dropout=1.0, attention_dropout=0.0),
        ConditionalDecoderLayer(DIM, HEADS, FFN, dropout=1.0, attention_dropout=0.0, is_first=True),
        ConditionalDecoderLayer(DIM, HEADS, FFN, dropout=1.0, attention_dropout=0.0, is_first=False),
    ):
        randomize_constants(layer)
        inputs = cross_attention_inputs(standard=isinstance(layer, DecoderLayer))
        expected = layer.norm3(layer.norm2(layer.norm1(tokens)))
        torch.testing.assert_close(layer(tokens, Queries(queries), *inputs), expected)
        assert (layer.eval()(tokens, Queries(queries), *inputs) - expected).abs().max() > 0.1
