"""Losses of the masks of matched queries (DETR, section 4.4 and appendix A.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import sigmoid_focal_loss

from pair_detr.losses.terms import LossTerm, MatchedPredictions


class MaskTerm(LossTerm):
    """Focal loss, "mask", and dice loss, "dice", of the masks that the last decoder layer gives to its objects."""

    uses_autocast = True

    def __init__(self, focal_weight: float, dice_weight: float) -> None:
        super().__init__(mask=focal_weight, dice=dice_weight)

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """Predicts the masks of matched queries alone; without objects zeros that are connected to the graph."""
        queries, targets = matched.predictions.mask_queries, matched.targets_per_image
        groups = matched.predictions.groups
        last, counts = matched.assignment.last_layer(targets.counts, queries.states.shape[1], groups)
        logits = matched.mask_head(queries, last.query, counts)
        with torch.autocast(logits.device.type, enabled=False):
            masks = logits.new_zeros(0, *logits.shape[-2:]) if targets.masks is None else targets.masks[last.target]
            focal, dice = mask_losses(logits.float(), masks)
            sums = {"mask": focal.sum(0, keepdim=True), "dice": dice.sum(0, keepdim=True)}
            return {name: loss * groups / matched.num_boxes for name, loss in sums.items()}


# Masks at full size that are in memory at a time.
_CHUNK = 16


def mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of each mask, which is upsampled to the size of its target.

    The upsampled masks are not kept for the backward pass, but made again, a few at a time: they would take several
    times the memory of all that the mask head keeps.

    Args:
        logits: (N, h, w) fp32.
        targets: (N, H, W) bool.

    Returns:
        (N,) mean focal loss of the pixels, and (N,) dice loss.
    """
    chunks = [
        checkpoint(_of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(logits.split(_CHUNK), targets.split(_CHUNK), strict=True)
    ]
    focal, dice = zip(*chunks, strict=True)
    return torch.cat(focal), torch.cat(dice)


def _of_chunk(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.interpolate(logits[:, None], size=targets.shape[-2:], mode="bilinear").flatten(1)
    targets = targets.flatten(1).to(logits.dtype)
    return sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2).mean(1), dice_loss(logits, targets)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss, smoothed by 1 as DETR's.

    Args:
        logits: (N, P) of P pixels.
        targets: (N, P) of 0 and 1.

    Returns:
        (N,) in 0..1.

    Source: arXiv 1606.04797, without the squares.
    """
    probs = logits.sigmoid()
    return 1 - (2 * (probs * targets).sum(1) + 1) / (probs.sum(1) + targets.sum(1) + 1)
