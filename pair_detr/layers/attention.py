"""Multi-head attention on torch's fused kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        key_mask: (B, 1, 1, M) or (N, M) bool, true where a key may be attended to; None if all may, which lets torch
            choose its fastest kernel.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, N, V).
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)


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

    def projections(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the projections of query, key and value."""
        return list(zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attention and output projection of features that are projected already."""
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(query, key, value, self.num_heads, key_mask, dropout))
