"""Multi-head attention on torch's fused kernel."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pair_detr.layers.dropout import dropout as drop
from pair_detr.layers.feed_forward import multi_linear


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, key_mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention of already projected features.

    Args:
        query: (B, N, E).
        key: (B, M, E).
        value: (B, M, V); V may differ from E, as in Conditional DETR's cross-attention.
        num_heads: E and V are split into this many heads.
        key_mask: (B, 1, 1, M) bool, true where a key may be attended to, or (B, heads, N, M) to add to the logits; None
            lets torch choose its fastest kernel.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, N, V).
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    if dropout > 0 and query.device.type == "cpu" and not torch.compiler.is_compiling():
        out = _attend_with_dropout(query, key, value, key_mask, dropout)
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)


def _attend_with_dropout(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float) -> Tensor:
    """Attention in steps, as torch computes it on CPUs where there is dropout, but with the cheap one."""
    logits = (query * query.shape[-1] ** -0.5) @ key.mT
    if key_mask is not None:
        is_bias = key_mask.is_floating_point()
        logits = logits + key_mask if is_bias else logits.masked_fill(~key_mask, float("-inf"))
    return drop(logits.softmax(-1), dropout) @ value


def attend_in_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    groups: Sequence[tuple[int, int]] | None,
    is_used: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Self-attention within groups of the N inputs, without the quadratic cost of a mask.

    Args:
        query: (B, N, E).
        key: (B, N, E).
        value: (B, N, V).
        num_heads: as in :func:`attend`.
        groups: (number of groups, size of each) of one run after the other, N in total; None is a single group.
        is_used: (B, N) bool, false for keys that may not be attended to; None if all may.
        dropout: as in :func:`attend`.

    Returns:
        (B, N, V).
    """
    if groups is None:
        return attend(query, key, value, num_heads, None if is_used is None else is_used[:, None, None], dropout)
    lengths = [count * size for count, size in groups]
    masks = [None] * len(groups) if is_used is None else is_used.split(lengths, dim=1)
    outputs = []
    runs = zip(groups, masks, *(x.split(lengths, dim=1) for x in (query, key, value)), strict=True)
    for (count, size), mask, *projected in runs:
        folded = (x.reshape(len(x) * count, size, -1) for x in projected)
        key_mask = None if mask is None else mask.reshape(-1, 1, 1, size)
        outputs.append(attend(*folded, num_heads, key_mask, dropout).reshape(len(value), count * size, -1))
    return torch.cat(outputs, dim=1)


class MultiHeadAttention(nn.Module):
    """Attention with the parameters, and their names, of :class:`torch.nn.MultiheadAttention`; batch first."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, N, E), (B, M, E), (B, M, E) -> (B, N, E); ``key_mask`` as in :func:`attend`."""
        query_proj, key_proj, value_proj = self.projections()
        if query is key:
            query, key = multi_linear(query, [query_proj, key_proj])
        else:
            query, key = F.linear(query, *query_proj), F.linear(key, *key_proj)
        return self.attend(query, key, F.linear(value, *value_proj), key_mask)

    def within_groups(
        self, x: Tensor, value: Tensor, groups: Sequence[tuple[int, int]] | None, is_used: Tensor | None
    ) -> Tensor:
        """(B, N, E) queries that are their own keys, (B, N, E) -> (B, N, E); see :func:`attend_in_groups`."""
        query_proj, key_proj, value_proj = self.projections()
        query, key = multi_linear(x, [query_proj, key_proj])
        dropout = self.dropout if self.training else 0.0
        value = F.linear(value, *value_proj)
        return self.out_proj(attend_in_groups(query, key, value, self.num_heads, groups, is_used, dropout))

    def projections(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the projections of query, key and value."""
        return list(zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attention and output projection of features that are projected already."""
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(query, key, value, self.num_heads, key_mask, dropout))
