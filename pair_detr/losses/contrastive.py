"""What Pair DETR adds to the loss (arXiv 2210.16476, section 3.3): top-left corners, and the association of pairs."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.losses.terms import LossTerm, MatchedPredictions


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Normalized temperature-scaled cross entropy between the 2 N embeddings of each image.

    The positive of ``a[i]`` is ``b[i]`` and the other way round; the 2 N - 2 others of the image are negatives.

    Args:
        a: (..., N, E) embeddings of any length; they are L2-normalized here.
        b: (..., N, E).
        temperature: divides the cosines.

    Returns:
        (...) fp32, the mean over the 2 N embeddings.

    Source: arXiv 2002.05709, equation 1, with the queries of one image in the place of the batch.
    """
    n = a.shape[-2]
    embeddings = F.normalize(torch.cat((a, b), dim=-2).float(), dim=-1)
    similarity = embeddings @ embeddings.transpose(-1, -2) / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=a.device)
    log_prob = similarity.masked_fill(itself, float("-inf")).log_softmax(-1)
    positive = torch.cat((log_prob.diagonal(n, -2, -1), log_prob.diagonal(-n, -2, -1)), dim=-1)
    return -positive.mean(-1)


def symmetric_cross_entropy(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Cross entropy of the N x N matrix of cosines with its diagonal, over rows and over columns.

    Arguments and result as of :func:`nt_xent`; here the negatives of ``a[i]`` are the other ``b`` alone.

    Source: arXiv 2103.00020, figure 3.
    """
    similarity = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).transpose(-1, -2) / temperature
    rows = similarity.log_softmax(-1).diagonal(0, -2, -1)
    columns = similarity.log_softmax(-2).diagonal(0, -2, -1)
    return -(rows + columns).mean(-1) / 2


CONTRASTIVE_LOSSES = {"nt_xent": nt_xent, "cross": symmetric_cross_entropy}


class TopLeftTerm(LossTerm):
    """L1 distance of the top-left corners, under the matching of the boxes."""

    def __init__(self, weight: float) -> None:
        super().__init__(top_left=weight)

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`."""
        predicted = matched.assignment.pick(matched.predictions.top_left)
        targets = cxcywh_to_xyxy(matched.targets.boxes)[matched.assignment.target, :2]
        return {"top_left": matched.mean_by_layer(F.l1_loss(predicted, targets, reduction="none").sum(-1))}


class PairTerm(LossTerm):
    """The pair association loss: both decoders' embeddings of one query belong together, those of two do not."""

    def __init__(self, weight: float, loss: Callable[[Tensor, Tensor, float], Tensor], temperature: float) -> None:
        """
        Args:
            weight: of the loss.
            loss: one of :data:`CONTRASTIVE_LOSSES`.
            temperature: divides the cosines.
        """
        super().__init__(pair=weight)
        self.loss = loss
        self.temperature = temperature

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`; the mean over the images of a batch."""
        return {"pair": self.loss(*matched.predictions.pair_embeddings, self.temperature).mean(-1)}
