"""One-to-one assignment of objects to queries (DETR, section 3.1)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pair_detr.classification import Classification
from pair_detr.layers import box_iou_pairs, cxcywh_to_xyxy
from pair_detr.targets import Assignment, Targets


class NonFiniteCostError(FloatingPointError):
    """The matching cost is NaN or infinite.

    Attributes:
        layer: decoder layer, counted from 0.
        image: index in the batch.
        culprit: "class logits", "predicted boxes", "ground-truth boxes" or "cost".
    """

    def __init__(self, layer: int, image: int, culprit: str) -> None:
        super().__init__(
            f"Matching cost of decoder layer {layer}, image {image} of the batch is not finite: see the {culprit}."
        )
        self.layer = layer
        self.image = image
        self.culprit = culprit


@dataclass(frozen=True)
class HungarianMatcher:
    """Matches the objects of each image with its queries at the least total cost, for all decoder layers.

    Attributes:
        classification: gives the class cost.
        class_weight: weight of the class cost.
        l1_weight: weight of the L1 distance of normalised cxcywh boxes.
        giou_weight: weight of the negative generalised IoU.
    """

    classification: Classification
    class_weight: float
    l1_weight: float
    giou_weight: float

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Assignment:
        """Matches a batch. Costs are computed on the device and copied to the host once.

        Args:
            logits: (L, B, Q, C).
            boxes: (L, B, Q, 4) cxcywh, normalised.
            targets: the ground truth. Of an image with more than Q objects, the Q that fit best are matched.

        Raises:
            NonFiniteCostError: a cost is NaN or infinite.
        """
        cost = self.pairwise_cost(logits.float(), boxes.float(), targets).cpu().numpy()
        if not np.isfinite(cost).all():
            raise self._explain(cost, logits, boxes, targets)
        rows = [np.empty((4, 0), dtype=np.int64)]
        stops = np.cumsum(targets.counts)
        for image, (count, stop) in enumerate(zip(targets.counts, stops, strict=True)):
            if count == 0:
                continue
            for layer, block in enumerate(cost[:, stop - count : stop]):
                target, query = linear_sum_assignment(block)
                rows.append(
                    np.stack((np.full_like(query, layer), np.full_like(query, image), query, target + stop - count))
                )
        matches = torch.from_numpy(np.concatenate(rows, axis=1))
        if logits.is_cuda:
            matches = matches.pin_memory()
        return Assignment(*matches.to(logits.device, non_blocking=True))

    def pairwise_cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Cost of every object with every query of its own image.

        Args:
            logits: (L, B, Q, C) fp32.
            boxes: (L, B, Q, 4) fp32 cxcywh, normalised.
            targets: T objects.

        Returns:
            (L, T, Q) fp32.
        """
        candidates = boxes[:, targets.image_of]
        wanted = targets.boxes[:, None]
        l1 = (candidates - wanted).abs().sum(-1)
        _, giou = box_iou_pairs(cxcywh_to_xyxy(candidates), cxcywh_to_xyxy(wanted))
        class_cost = self.classification.cost(logits, targets)
        return self.class_weight * class_cost + self.l1_weight * l1 - self.giou_weight * giou

    def _explain(self, cost: np.ndarray, logits: Tensor, boxes: Tensor, targets: Targets) -> NonFiniteCostError:
        layer, target, _ = np.argwhere(~np.isfinite(cost))[0]
        image = int(targets.image_of[target])
        suspects = {
            "ground-truth boxes": targets.boxes[target],
            "class logits": logits[layer, image],
            "predicted boxes": boxes[layer, image],
        }
        culprit = next((name for name, tensor in suspects.items() if not tensor.isfinite().all()), "cost")
        return NonFiniteCostError(int(layer), image, culprit)
