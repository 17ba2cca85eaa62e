"""One-to-one assignment of objects to queries (DETR, section 3.1)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pair_detr.layers import box_iou_pairs, cxcywh_to_xyxy
from pair_detr.losses.classification import ClassScoring
from pair_detr.structures import Assignment, Targets
from pair_detr.utils.device import to_device_async


class NonFiniteCostError(FloatingPointError):
    """The matching cost is NaN or infinite.

    Attributes:
        layer: decoder layer, counted from 0.
        image: index in the batch.
        source: "class logits", "predicted boxes", "ground-truth boxes" or "cost".
    """

    def __init__(self, layer: int, image: int, source: str) -> None:
        super().__init__(
            f"Matching cost of decoder layer {layer}, image {image} of the batch is not finite: see the {source}."
        )
        self.layer = layer
        self.image = image
        self.source = source


@dataclass(frozen=True)
class HungarianMatcher:
    """Matches the objects of each image with its queries at the least total cost, for all decoder layers.

    Attributes:
        class_scoring: gives the class cost.
        class_weight: weight of the class cost.
        l1_weight: weight of the L1 distance of normalized cxcywh boxes.
        giou_weight: weight of the negative generalized IoU.
    """

    class_scoring: ClassScoring
    class_weight: float
    l1_weight: float
    giou_weight: float

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Assignment:
        """Matches a batch. Costs are computed on the device and copied to the host once.

        Args:
            logits: (L, B, Q, C).
            boxes: (L, B, Q, 4) cxcywh, normalized.
            targets: the ground truth. Of an image with more than Q objects, the Q that fit best are matched.

        Raises:
            NonFiniteCostError: a cost, a logit or a box is NaN or infinite.
        """
        logits, boxes = logits.float(), boxes.float()
        cost = self.pairwise_cost(logits, boxes, targets)
        # The cost does not see classes and images without an object.
        finite = logits.isfinite().flatten(2).all(-1) & boxes.isfinite().flatten(2).all(-1)
        packed = torch.cat((cost.flatten(), finite.flatten())).cpu().numpy()
        if not (np.isfinite(packed).all() and packed[cost.numel() :].all()):
            raise self._explain(cost, logits, boxes, targets)
        matches = _assign(packed[: cost.numel()].reshape(cost.shape), np.array(targets.counts))
        return Assignment(*to_device_async(torch.from_numpy(matches), logits.device))

    def pairwise_cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Cost of every object with every query of its own image.

        Args:
            logits: (L, B, Q, C) fp32.
            boxes: (L, B, Q, 4) fp32 cxcywh, normalized.
            targets: T objects.

        Returns:
            (L, T, Q) fp32.
        """
        class_cost, l1, giou = self.cost_terms(logits, boxes, targets)
        return class_cost + l1 + giou

    def cost_terms(self, logits: Tensor, boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted class, L1 and generalized IoU terms of :meth:`pairwise_cost`; arguments and shapes as there."""
        candidates = boxes[:, targets.image_index]
        target_boxes = targets.boxes[:, None]
        l1 = (candidates - target_boxes).abs().sum(-1)
        _, giou = box_iou_pairs(cxcywh_to_xyxy(candidates), cxcywh_to_xyxy(target_boxes))
        class_cost = self.class_scoring.cost(logits, targets)
        return self.class_weight * class_cost, self.l1_weight * l1, -self.giou_weight * giou

    def _explain(self, cost: Tensor, logits: Tensor, boxes: Tensor, targets: Targets) -> NonFiniteCostError:
        for source, tensor in (("class logits", logits), ("predicted boxes", boxes)):
            broken = (~tensor.isfinite()).nonzero()
            if len(broken):
                layer, image = broken[0, :2].tolist()
                return NonFiniteCostError(layer, image, source)
        broken = (~cost.isfinite()).nonzero()
        layer, target = broken[0, :2].tolist()
        source = "cost" if targets.boxes[target].isfinite().all() else "ground-truth boxes"
        return NonFiniteCostError(layer, int(targets.image_index[target]), source)


def _assign(cost: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Layer, image, query and object of each match, (4, N), from the (L, T, Q) costs of objects, image after image."""
    starts = np.cumsum(counts) - counts
    # scipy computes in float64, and would convert the costs of each image by themselves.
    pairs = [
        linear_sum_assignment(of_layer[start : start + count])
        for of_layer in cost.astype(np.float64)
        for start, count in zip(starts, counts, strict=True)
    ]
    place = np.repeat(np.arange(len(pairs)), [len(query) for _, query in pairs])
    layer, image = np.divmod(place, len(counts))
    target, query = map(np.concatenate, zip(*pairs, strict=True))
    return np.stack((layer, image, query, target + starts[image]))
