"""DETR's decoder (arXiv 2005.12872, appendix A.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pair_detr.layers import Dropout, FeedForward, MultiHeadAttention, multi_linear
from pair_detr.structures import Memory, Queries


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the memory, feed-forward block; normalized after each."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, attention_dropout)
        self.cross_attn = MultiHeadAttention(dim, num_heads, attention_dropout)
        self.ffn = FeedForward(dim, ffn_dim, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.text_attention: nn.Module | None = None

    def forward(
        self,
        state: Tensor,
        queries: Queries,
        key: Tensor,
        value: Tensor,
        key_mask: Tensor | None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D); ``key`` and ``value`` are the projected (B, M, D) of the cross-attention."""
        attended = self.self_attn.within_groups(state + queries.position, state, queries.groups, queries.is_used)
        state = self.norm1(state + self.dropout(attended))
        if self.text_attention is not None:
            state = self.text_attention(state, queries.texts)
        query = F.linear(state + queries.position, *self.cross_attn.projections()[0])
        state = self.norm2(state + self.dropout(self.cross_attn.attend(query, key, value, key_mask)))
        return self.norm3(state + self.dropout(self.ffn(state)))


class TransformerDecoder(nn.Module):
    """A stack of :class:`DecoderLayer` with one norm on the output of each."""

    def __init__(
        self, num_layers: int, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, ffn_dim, dropout, attention_dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, memory: Memory, queries: Queries) -> tuple[Tensor, Tensor | None]:
        """Decodes queries; see :mod:`pair_detr.modeling.decoder`. A reference is passed on, but not looked at."""
        queries = queries.narrowed(self.norm.weight.dtype)
        # Keys and values do not depend on the queries' states: those of all layers are projected at once.
        projections = [layer.cross_attn.projections() for layer in self.layers]
        keys = multi_linear(memory.tokens + memory.position, [projection[1] for projection in projections])
        values = multi_linear(memory.tokens, [projection[2] for projection in projections])
        state = queries.initial_states(memory.tokens.shape[0])
        states = []
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            state = layer(state, queries, key, value, memory.key_mask)
            states.append(state)
        return self.norm(torch.stack(states)), queries.reference
