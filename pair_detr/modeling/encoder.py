"""The transformer encoder, the same for all variants (DETR, appendix A.3)."""

from dataclasses import replace

from torch import Tensor, nn

from pair_detr.layers import Dropout, FeedForward, MultiHeadAttention
from pair_detr.structures import Memory


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward block, normalized after each residual."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, attention_dropout)
        self.ffn = FeedForward(dim, ffn_dim, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor, key_mask: Tensor | None) -> Tensor:
        """(B, M, D) -> (B, M, D)."""
        with_position = tokens + position
        tokens = self.norm1(tokens + self.dropout(self.self_attn(with_position, with_position, tokens, key_mask)))
        return self.norm2(tokens + self.dropout(self.ffn(tokens)))


class TransformerEncoder(nn.Module):
    """A stack of :class:`EncoderLayer`; positions are added anew in each."""

    def __init__(
        self, num_layers: int, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads, ffn_dim, dropout, attention_dropout) for _ in range(num_layers)
        )

    def forward(self, memory: Memory) -> Memory:
        """Feature tokens in, encoded tokens out; positions and mask stay."""
        tokens = memory.tokens
        for layer in self.layers:
            tokens = layer(tokens, memory.position, memory.key_mask)
        return replace(memory, tokens=tokens)
