"""Where in the image each query looks (DETR, section 4.4)."""

import torch
from torch import Tensor, nn


class MaskAttention(nn.Module):
    """Multi-head attention of queries to the cells of a feature map, without values: the weights are the result."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim)
        for linear in (self.query_proj, self.key_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None, counts: list[int]) -> Tensor:
        """Attends.

        Args:
            queries: (N, D), image after image.
            keys: (B, M, D).
            key_mask: (B, 1, 1, M) bool, false in the padding; None if nothing is padded.
            counts: queries of each image.

        Returns:
            (N, num_heads, M), which sum to 1 over heads and cells together.
        """
        queries, keys = self.query_proj(queries), self.key_proj(keys)
        queries = queries * (queries.shape[-1] // self.num_heads) ** -0.5
        queries, keys = (x.unflatten(-1, (self.num_heads, -1)) for x in (queries, keys))
        # Image by image: to give every query the keys of its image would take N copies of them.
        logits = [torch.einsum("nhd,mhd->nhm", q, k) for q, k in zip(queries.split(counts), keys, strict=True)]
        if key_mask is not None:
            logits = [x.masked_fill(~valid, float("-inf")) for x, valid in zip(logits, key_mask, strict=True)]
        weights = torch.cat(logits)
        return weights.flatten(1).softmax(-1).view_as(weights)
