"""What a training loss is a sum of. A variant or a training-only branch adds terms to the list."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pair_detr.layers import box_iou_pairs, covered_share, cxcywh_to_xyxy
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.structures import Assignment, Predictions, Targets

# Share of a box in annotated objects from which it is taken for a part, or a group, of these.
_MIN_COVERED = 0.5


@dataclass
class MatchedPredictions:
    """What a loss term is computed from.

    Attributes:
        predictions: of the detector, with those of its auxiliary branches.
        targets: of the batch; with groups of queries, once for each group, as ``predictions`` has them.
        assignment: which query of ``predictions`` has which object of ``targets``.
        num_boxes: number of objects to normalize with, over all processes and groups.
        matcher: made the assignment; for terms that match a branch of their own.
        mask_head: predicts the masks of chosen queries; None in models without masks.
        targets_per_image: of the batch, once, whatever the groups; by default ``targets``.
        counted: bool, true for class logits that take part, to be expanded to (L, B, Q, K); None if all do.
        match_weights: (N,) of the matches in the loss of boxes; None if all weigh the same.
    """

    predictions: Predictions
    targets: Targets
    assignment: Assignment
    num_boxes: Tensor
    matcher: HungarianMatcher
    mask_head: nn.Module | None = None
    targets_per_image: Targets | None = None
    counted: Tensor | None = None
    match_weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.targets_per_image is None:
            self.targets_per_image = self.targets

    def mean_by_layer(self, values: Tensor) -> Tensor:
        """(N,) values of the matches -> (L,) sums over the objects of a layer, divided by their number."""
        if self.match_weights is not None:
            values = values * self.match_weights
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
        self,
        weight: float,
        class_scoring: ClassScoring,
        federated_sampler: FederatedLossSampler | None = None,
        wildcard_score: float = 1.0,
        learns_from_labels: bool = False,
    ) -> None:
        """
        Args:
            weight: of the loss.
            class_scoring: gives the loss.
            federated_sampler: the classes that take part; None for all.
            wildcard_score: see :func:`unannotated_objects`; 1 for none.
            learns_from_labels: a class that images have as a label takes part from then on, even if nothing is
                annotated with it. For scores that learn classes from annotated objects alone: these are not of it, and
                without negatives it would be found in whatever has a word of its name.
        """
        super().__init__(**{"class": weight})
        self.wildcard_score = wildcard_score
        self.learns_from_labels = learns_from_labels
        self.class_scoring = class_scoring
        self.federated_sampler = federated_sampler

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """See :class:`LossTerm`."""
        targets, assignment = matched.targets, matched.assignment
        if self.federated_sampler is not None and self.learns_from_labels and not targets.has_boxes:
            self.federated_sampler.add(targets.image_labels.labels)
        selected = None if self.federated_sampler is None else self.federated_sampler(targets.labels)
        if matched.counted is not None:
            selected = matched.counted if selected is None else matched.counted & selected
        logits = matched.predictions.logits.float()
        if self.wildcard_score < 1:
            objectness = self.class_scoring.objectness(logits)
            wildcards = unannotated_objects(objectness, matched.predictions.boxes, targets, self.wildcard_score)
            wildcards[assignment.layer, assignment.image, assignment.query] = wildcards.new_zeros(())
            known = ~wildcards[..., None]
            selected = known if selected is None else known & selected
        quality = None
        if self.class_scoring.uses_iou:
            with torch.no_grad():
                predicted = cxcywh_to_xyxy(assignment.pick(matched.predictions.boxes.float()))
                quality, _ = box_iou_pairs(predicted, cxcywh_to_xyxy(targets.boxes[assignment.target]))
        loss = self.class_scoring.loss(logits, assignment, targets, matched.num_boxes, selected, quality)
        return {"class": loss}


@torch.no_grad()
def unannotated_objects(objectness: Tensor, boxes: Tensor, targets: Targets, min_score: float) -> Tensor:
    """Queries that find an object where none is annotated, of which nothing is learned.

    Args:
        objectness: (L, B, Q) log odds.
        boxes: (L, B, Q, 4) normalized cxcywh.
        targets: the annotated objects.
        min_score: probability that an object has at least.

    Returns:
        (L, B, Q) bool, false for boxes of which annotated objects cover half or more, where they overlap counted twice.
    """
    covered = covered_share(boxes, targets.boxes, targets.image_index)
    return (objectness.sigmoid() >= min_score) & (covered < _MIN_COVERED)


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
