"""Attention of queries to the texts of a vocabulary."""

from torch import Tensor, nn

from pair_detr.layers.attention import MultiHeadAttention
from pair_detr.layers.dropout import Dropout


class TextCrossAttention(nn.Module):
    """A residual block in which queries attend to all classes, in no order; normalized after it.

    Source: the text cross-attention of Grounding DINO's decoder layers (arXiv 2303.05499, section 3.3).
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.attn = MultiHeadAttention(dim, num_heads, attention_dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, state: Tensor, texts: Tensor) -> Tensor:
        """(B, N, D) states of queries, (C, D) texts -> (B, N, D)."""
        # The texts are those of all images, whose queries can attend to them as those of a single one.
        attended = self.attn(state.flatten(0, 1)[None], texts[None], texts[None])
        return self.norm(state + self.dropout(attended.view_as(state)))
