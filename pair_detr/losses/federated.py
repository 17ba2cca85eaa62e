"""Which classes take part in the classification loss of images with boxes."""

import torch
from torch import Tensor, nn


class FederatedLossSampler(nn.Module):
    """Leaves out classes that are not annotated, and of many classes all but a sample.

    A class without annotations may be in any image: that a query has no box of it says nothing. And where the objects
    of a class are annotated in some of the images only (LVIS), the federated loss (arXiv 2104.05892) takes the classes
    of the batch and a sample of the others, anew for each batch.
    """

    def __init__(self, weights: Tensor, limit: int = 0) -> None:
        """
        Args:
            weights: (C,) relative probability that a class is sampled; 0 for those that are not annotated.
            limit: number of classes to take part, those of the batch included; 0 is all that are annotated.
        """
        super().__init__()
        self.limit = min(limit, len(weights))
        # Not a part of what is learned.
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, labels: Tensor) -> Tensor:
        """(T,) labels of the batch -> (C,) bool, the classes that take part. The host does not wait for it."""
        present = torch.zeros_like(self.weights, dtype=torch.bool).index_fill(0, labels, True)
        if not self.limit:
            return present | (self.weights > 0)
        # The largest of these keys are a sample without replacement, in proportion to the weights (Gumbel's trick).
        keys = self.weights.log() - torch.empty_like(self.weights).exponential_().log()
        chosen = keys.masked_fill(present, torch.inf).topk(self.limit).indices
        sampled = torch.zeros_like(present).index_fill(0, chosen, True)
        return present | (sampled & (self.weights > 0))

    @torch.no_grad()
    def add(self, labels: Tensor) -> None:
        """Lets classes without annotations take part from now on, as often as the average class. The host does not
        wait for it.
        """
        mean = self.weights.sum() / (self.weights > 0).sum().clamp(min=1)
        missing = torch.zeros_like(self.weights).index_fill(0, labels, 1.0) * (self.weights == 0)
        self.weights += missing * mean.clamp(min=torch.finfo(mean.dtype).tiny)
