"""Supervision of the masks of matched queries."""

import torch
from torch import Tensor, nn

from pair_detr.modeling import MaskQueries
from pair_detr.segmentation.head import MaskHead
from pair_detr.segmentation.losses import mask_losses
from pair_detr.targets import Assignment, Targets


class MaskCriterion(nn.Module):
    """Focal and dice loss of the masks that the last decoder layer's queries give to their objects."""

    def __init__(self, focal_weight: float, dice_weight: float) -> None:
        super().__init__()
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight

    def forward(
        self, head: MaskHead, asked: MaskQueries, targets: Targets, assignment: Assignment, num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """Predicts the masks of matched queries alone, and computes the weighted losses, in fp32 under autocast, too.

        Args:
            head: predicts.
            asked: the queries of the batch.
            targets: with masks, unless there are no objects.
            assignment: of all layers.
            num_boxes: number of objects to normalise with.

        Returns:
            "loss_mask" and "loss_dice"; without objects zeros that are connected to the graph.
        """
        last, counts = assignment.last_layer(targets.counts, asked.states.shape[1])
        logits = head(asked, last.query, counts)
        with torch.autocast(logits.device.type, enabled=False):
            masks = logits.new_zeros(0, *logits.shape[-2:]) if targets.masks is None else targets.masks[last.target]
            focal, dice = mask_losses(logits.float(), masks)
            return {
                "loss_mask": self.focal_weight * focal.sum() / num_boxes,
                "loss_dice": self.dice_weight * dice.sum() / num_boxes,
            }
