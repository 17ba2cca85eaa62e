"""What a training loss is a sum of. A variant or a training-only branch adds terms to the list."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from pair_detr.layers import box_iou_pairs, cxcywh_to_xyxy
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.structures import Assignment, Predictions, Targets


@dataclass
class MatchedPredictions:
    """What a loss term is computed from.

    Attributes:
        predictions: of the detector, with those of its auxiliary branches.
        targets: of the batch.
        assignment: which query of ``predictions`` has which object.
        num_boxes: number of objects to normalize with, over all processes.
        matcher: made the assignment; for terms that match a branch of their own.
        mask_head: predicts the masks of chosen queries; None in models without masks.
    """

    predictions: Predictions
    targets: Targets
    assignment: Assignment
    num_boxes: Tensor
    matcher: HungarianMatcher
    mask_head: nn.Module | None = None

    def mean_by_layer(self, values: Tensor) -> Tensor:
        """(N,) values of the matches -> (L,) sums over the objects of a layer, divided by their number."""
        sums = values.new_zeros(len(self.predictions.boxes)).index_add(0, self.assignment.layer, values)
        return sums / self.num_boxes


class LossTerm(nn.Module, ABC):
    """One or more losses with their weights.

    Attributes:
        weights: by name; the losses are logged as "loss_<name>", and "loss_<name>_aux" for the layers before the last.
        uses_autocast: whether it runs a part of the network, which autocast may compute in half precision. All else of
            a loss is computed in fp32.
    """

    uses_autocast: ClassVar[bool] = False

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self.weights = weights

    @abstractmethod
    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """The unweighted losses by name, each (layers,) with the last layer last; of a single layer also (1,)."""


class ClassTerm(LossTerm):
    """Classification loss of all queries, "class"."""

    def __init__(
        self, weight: float, class_scoring: ClassScoring, federated_sampler: FederatedLossSampler | None = None
    ) -> None:
        """
        Args:
            weight: of the loss.
            class_scoring: gives the loss.
            federated_sampler: the classes that take part; None for all.
        """
        super().__init__(**{"class": weight})
        self.class_scoring = class_scoring
        self.federated_sampler = federated_sampler

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`."""
        targets = matched.targets
        selected = None if self.federated_sampler is None else self.federated_sampler(targets.labels)
        logits = matched.predictions.logits.float()
        loss = self.class_scoring.loss(logits, matched.assignment, targets, matched.num_boxes, selected)
        return {"class": loss}


class BoxTerm(LossTerm):
    """L1 distance of normalized cxcywh boxes, "box", and generalized IoU, "giou"."""

    def __init__(self, l1_weight: float, giou_weight: float) -> None:
        super().__init__(box=l1_weight, giou=giou_weight)

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`."""
        predicted = matched.assignment.pick(matched.predictions.boxes.float())
        targets = matched.targets.boxes[matched.assignment.target]
        _, giou = box_iou_pairs(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(targets))
        return {
            "box": matched.mean_by_layer(F.l1_loss(predicted, targets, reduction="none").sum(-1)),
            "giou": matched.mean_by_layer(1 - giou),
        }
