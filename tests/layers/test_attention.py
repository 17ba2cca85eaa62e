"""Attention against torch's reference implementation and an explicit softmax."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.layers import FeedForward, MultiHeadAttention, attend, multi_linear

BATCH, DIM, HEADS = 3, 16, 4


def reference(
    attention: MultiHeadAttention, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None
) -> Tensor:
    """torch.nn.functional.multi_head_attention_forward; ``padding`` is (B, M), true in the padding."""
    out, _ = F.multi_head_attention_forward(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        DIM,
        HEADS,
        attention.in_proj_weight,
        attention.in_proj_bias,
        None,
        None,
        False,
        0.0,
        attention.out_proj.weight,
        attention.out_proj.bias,
        key_padding_mask=padding,
    )
    return out.transpose(0, 1)


@pytest.fixture
def attention() -> MultiHeadAttention:
    module = MultiHeadAttention(DIM, HEADS)
    # The biases start at zero, where an exchanged pair of them would not be seen.
    torch.nn.init.normal_(module.in_proj_bias)
    torch.nn.init.normal_(module.out_proj.bias)
    return module


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_equals_torch(attention: MultiHeadAttention, kind: str, padded: bool) -> None:
    query = torch.randn(BATCH, 5, DIM)
    # In self-attention query and key are the very same tensor, which takes another path.
    key = query if kind == "self" else torch.randn(BATCH, 7, DIM)
    value = torch.randn(key.shape)
    padding = None
    if padded:
        padding = torch.zeros(BATCH, key.shape[1], dtype=torch.bool)
        padding[1, 3:] = True
        padding[2, ::2] = True
    key_mask = None if padding is None else ~padding[:, None, None]
    out = attention(query, key, value, key_mask)
    torch.testing.assert_close(out, reference(attention, query, key, value, padding), atol=1e-6, rtol=1e-5)


def test_loads_the_parameters_of_torch() -> None:
    theirs = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    ours = MultiHeadAttention(DIM, HEADS)
    ours.load_state_dict(theirs.state_dict())
    query, memory = torch.randn(BATCH, 5, DIM), torch.randn(BATCH, 7, DIM)
    torch.testing.assert_close(ours(query, memory, memory), theirs(query, memory, memory)[0], atol=1e-6, rtol=1e-5)


def test_initialization_is_that_of_torch() -> None:
    theirs, ours = torch.nn.MultiheadAttention(64, 4), MultiHeadAttention(64, 4)
    # Xavier of the stacked matrix: its bound counts the rows of all three.
    bound = (6 / (64 + 3 * 64)) ** 0.5
    for weight in (theirs.in_proj_weight, ours.in_proj_weight):
        assert bound * 0.98 < weight.abs().max() <= bound
    for module in (theirs, ours):
        assert not module.in_proj_bias.any()
        assert not module.out_proj.bias.any()


def test_dropout_acts_on_attention_weights_in_training_alone() -> None:
    attention = MultiHeadAttention(DIM, HEADS, dropout=0.5)
    x = torch.randn(1, 6, DIM)
    assert not torch.equal(attention(x, x, x), attention(x, x, x))
    attention.eval()
    torch.testing.assert_close(attention(x, x, x), reference(attention, x, x, x, None), atol=1e-6, rtol=1e-5)


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, padding: Tensor) -> Tensor:
    out = torch.zeros(*query.shape[:2], value.shape[-1])
    e, v = query.shape[-1] // heads, value.shape[-1] // heads
    for b in range(len(query)):
        valid = [m for m in range(key.shape[1]) if not padding[b, m]]
        for h in range(heads):
            for n in range(query.shape[1]):
                q = query[b, n, h * e : (h + 1) * e]
                scores = torch.stack([q @ key[b, m, h * e : (h + 1) * e] for m in valid]) / e**0.5
                weights = scores.exp() / scores.exp().sum()
                for weight, m in zip(weights, valid, strict=True):
                    out[b, n, h * v : (h + 1) * v] += weight * value[b, m, h * v : (h + 1) * v]
    return out


def test_attend_with_values_narrower_than_keys() -> None:
    """Conditional DETR's cross-attention: 2 E wide queries and keys, E wide values, scaled by (2 E / heads) ** -0.5."""
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False, True, False, False, True]])
    out = attend(query, key, value, 2, ~padding[:, None, None])
    assert out.shape == (2, 3, 8)
    torch.testing.assert_close(out, explicit_attention(query, key, value, 2, padding), atol=1e-6, rtol=1e-5)
    unmasked = attend(query, key, value, 2)
    expected = explicit_attention(query, key, value, 2, torch.zeros_like(padding))
    torch.testing.assert_close(unmasked, expected, atol=1e-6, rtol=1e-5)


def test_linear_many_equals_one_linear_each() -> None:
    linears = [torch.nn.Linear(6, width) for width in (3, 5, 1)]
    x = torch.randn(2, 4, 6)
    outs = multi_linear(x, [(linear.weight, linear.bias) for linear in linears])
    assert len(outs) == 3
    for out, linear in zip(outs, linears, strict=True):
        torch.testing.assert_close(out, linear(x), atol=1e-6, rtol=1e-5)


def test_feed_forward_drops_hidden_units() -> None:
    ffn = FeedForward(4, 8, dropout=1.0)
    x = torch.randn(3, 4)
    torch.testing.assert_close(ffn(x), ffn.linear2.bias.expand(3, 4))
    ffn.eval()
    torch.testing.assert_close(ffn(x), ffn.linear1(x).clamp(min=0) @ ffn.linear2.weight.T + ffn.linear2.bias)
