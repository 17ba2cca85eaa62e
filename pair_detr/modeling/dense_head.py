"""A head on the encoder's tokens: every token predicts an object, and the best of them are where queries start."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pair_detr.modeling.heads import LocationHead
from pair_detr.structures import Memory, Predictions


class DenseHead(nn.Module):
    """Class logits and a box of every token, as of a query that looks from the center of the token's cell.

    It is trained by one-to-many matching (:class:`pair_detr.losses.branches.OneToManyTerm`), after Co-DETR (arXiv
    2211.12860, section 3.2) and the two-stage variant of Deformable DETR (arXiv 2010.04159, section 4.2).
    """

    def __init__(self, dim: int, classifier: Callable[[int], nn.Module], box_size: float = 0.5) -> None:
        """
        Args:
            dim: width of the tokens.
            classifier: makes what maps (..., D) features to (..., C) logits, given D.
            box_size: width and height, normalized, of the boxes before any training.
        """
        super().__init__()
        self.project = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.class_head = classifier(dim)
        self.box_head = LocationHead(dim, 4, zero_init=True)
        nn.init.constant_(self.box_head.mlp.layers[-1].bias[2:], math.log(box_size / (1 - box_size)))

    def forward(self, memory: Memory) -> Predictions:
        """Predictions of the M tokens in the place of queries, in a single layer."""
        features = self.norm(self.project(memory.tokens))[None]
        centers = memory.centers.flatten(1, 2)
        return Predictions(
            self.class_head(features),
            self.box_head(features, centers),
            reference=centers,
            is_counted=None if memory.key_mask is None else memory.key_mask[:, 0, 0],
        )


def select_tokens(scores: Tensor, key_mask: Tensor | None, count: int) -> Tensor:
    """The tokens of each image with the highest scores, without those in the padding.

    Args:
        scores: (B, M), the higher, the more likely.
        key_mask: (B, 1, 1, M) bool, false in the padding; None where no image is padded.
        count: tokens to select; an image with fewer has them several times, the best first.

    Returns:
        (B, count) int64.
    """
    is_valid = torch.ones_like(scores, dtype=torch.bool) if key_mask is None else key_mask[:, 0, 0]
    scores = scores.masked_fill(~is_valid, float("-inf"))
    # Others follow all tokens, so that there are enough to choose from; a graph of any size of images has no branches.
    order = F.pad(scores, (0, count), value=float("-inf")).topk(count, dim=1).indices.clamp(max=scores.shape[1] - 1)
    available = is_valid.sum(1, keepdim=True).clamp(min=1, max=count)
    rank = torch.arange(count, device=scores.device).expand_as(order)
    return order.gather(1, rank % available)
