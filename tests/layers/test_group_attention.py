"""Self-attention within groups against a mask over all inputs."""

import pytest
import torch
from torch import Tensor

from pair_detr.layers import MultiHeadAttention, attend, attend_in_groups

BATCH, DIM, HEADS = 3, 16, 4
# (number of groups, size of each): inputs 0-2, 3-5, 6-7, 8-9, 10-11, and 12.
GROUPS = ((2, 3), (3, 2), (1, 1))
OF_GROUP = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5])


def inputs(value_dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    count = len(OF_GROUP)
    return tuple(torch.randn(BATCH, count, dim, requires_grad=True) for dim in (DIM, DIM, value_dim))


def some_used() -> Tensor:
    """In the first group of the second image one key is left, in the second of the third all but one."""
    is_used = torch.ones(BATCH, len(OF_GROUP), dtype=torch.bool)
    is_used[1, 1:3] = False
    is_used[2, [3, 6, 9]] = False
    return is_used


def masked(query: Tensor, key: Tensor, value: Tensor, is_used: Tensor | None) -> Tensor:
    """With all pairs of inputs computed, and a softmax of its own."""
    allowed = (OF_GROUP[:, None] == OF_GROUP).expand(BATCH, -1, -1)
    if is_used is not None:
        allowed = allowed & is_used[:, None]
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key, value))
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return (logits.masked_fill(~allowed[:, None], float("-inf")).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("value_dim", [DIM, 2 * DIM])
@pytest.mark.parametrize("with_unused", [False, True])
def test_groups_are_a_block_mask(with_unused: bool, value_dim: int) -> None:
    tensors = inputs(value_dim)
    is_used = some_used() if with_unused else None
    found = attend_in_groups(*tensors, HEADS, GROUPS, is_used)
    expected = masked(*tensors, is_used)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    weight = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), tensors),
        torch.autograd.grad((expected * weight).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("with_unused", [False, True])
def test_one_group_is_plain_attention(with_unused: bool) -> None:
    tensors = inputs()
    is_used = some_used() if with_unused else None
    expected = attend(*tensors, HEADS, None if is_used is None else is_used[:, None, None])
    for groups in (None, ((1, len(OF_GROUP)),)):
        torch.testing.assert_close(attend_in_groups(*tensors, HEADS, groups, is_used), expected, atol=1e-6, rtol=1e-5)


def test_attention_with_parameters() -> None:
    """Within groups it is the module applied to each group alone."""
    module = MultiHeadAttention(DIM, HEADS)
    torch.nn.init.normal_(module.in_proj_bias)
    x, value = torch.randn(BATCH, len(OF_GROUP), DIM), torch.randn(BATCH, len(OF_GROUP), DIM)
    found = module.within_groups(x, value, GROUPS, None)
    for group in OF_GROUP.unique():
        own = group == OF_GROUP
        alone = module(x[:, own], x[:, own], value[:, own])
        torch.testing.assert_close(found[:, own], alone, atol=1e-6, rtol=1e-5)


def test_a_bias_is_added_to_the_logits() -> None:
    query, key, value = inputs()
    bias = torch.randn(BATCH, HEADS, len(OF_GROUP), len(OF_GROUP))
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias).softmax(-1)
    expected = (weights @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(query, key, value, HEADS, bias), expected, atol=1e-6, rtol=1e-5)
