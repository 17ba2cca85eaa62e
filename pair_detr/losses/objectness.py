"""Scores of classes in two factors: whether there is an object at all, and which class it is if there is one.

A classifier of texts that learns from boxes alone takes every object without a box for background, and so suppresses
the classes that it is to be asked for later. With two factors the first one, which knows no classes, takes all of the
background, and the second is trained on objects alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.losses.classification import ClassScoring, SigmoidFocal, log_odds
from pair_detr.structures import Assignment, Targets

# Log odds of a probability of 1.
_CERTAIN = 1e4


class ObjectnessScoring(ClassScoring):
    """Independent sigmoids of classes times the sigmoid of a last column, of an object of any class.

    Source: after the class-agnostic localization quality of OLN (arXiv 2108.06753) and OV-DQUO's wildcard (arXiv
    2405.17913), which is what an object of no known class is to the last column; the form is this project's.
    """

    def __init__(self, inner: SigmoidFocal, power: float = 1.0) -> None:
        """``inner`` is the loss of both factors, and the cost of their product. In detections the second factor has an
        exponent, ``power``.
        """
        self.inner = inner
        self.power = power
        self.default_weight = inner.default_weight
        self.prior_prob = inner.prior_prob
        self.uses_iou = inner.uses_iou

    def num_logits(self, num_classes: int) -> int:
        """See :class:`ClassScoring`."""
        return num_classes + 1

    def cost(self, logits: Tensor, targets: Targets) -> Tensor:
        """That of the product."""
        own = logits[:, targets.image_index, :, targets.labels].transpose(0, 1)
        return self.inner.cost_of(own.sigmoid() * logits[:, targets.image_index, :, -1].sigmoid())

    def loss(
        self,
        logits: Tensor,
        assignment: Assignment,
        targets: Targets,
        num_boxes: Tensor,
        selected: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        """The loss of the last column for all queries, and that of the classes for those with an object.

        The IoU of a match is a matter of the last column: an object is of its class however well its box fits.
        """
        classes, objectness = logits[..., :-1], logits[..., -1:]
        of_any_class = torch.zeros_like(targets.labels)
        as_one_class = Targets(targets.boxes, of_any_class, targets.image_index, targets.counts)
        is_counted = None if selected is None else selected.any(-1, keepdim=True)
        loss = self.inner.loss(objectness, assignment, as_one_class, num_boxes, is_counted, quality)

        picked = assignment.pick(classes)
        row = torch.arange(len(picked), device=logits.device)
        where = torch.zeros_like(row), torch.zeros_like(row), row, targets.labels[assignment.target]
        of_objects = self.inner.elementwise_loss(picked[None, None], where, picked.new_ones(len(picked)))[0, 0]
        if selected is not None:
            of_objects = of_objects * assignment.pick(selected.expand(*logits.shape[:3], -1))
        if targets.classified is not None:
            of_objects = of_objects * targets.classified[assignment.target, None]
        by_layer = loss.new_zeros(len(logits)).index_add(0, assignment.layer, of_objects.sum(-1))
        return loss + by_layer / num_boxes

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each class by itself, times that power of objectness, without the last column."""
        return logits[..., :-1].float().sigmoid() * logits[..., -1:].float().sigmoid() ** self.power

    def binary_logits(self, logits: Tensor) -> Tensor:
        """The log odds of the product."""
        return log_odds(F.logsigmoid(logits[..., :-1]) + F.logsigmoid(logits[..., -1:]))

    def class_logits(self, logits: Tensor) -> Tensor:
        """See :class:`ClassScoring`."""
        return logits[..., :-1]

    def objectness(self, logits: Tensor) -> Tensor:
        """See :class:`ClassScoring`."""
        return logits[..., -1]

    def with_class_scores(self, logits: Tensor, log_scores: Tensor) -> Tensor:
        """See :class:`ClassScoring`; the last column says that there is an object, for sure."""
        odds = self.inner.with_class_scores(logits[..., :-1], log_scores)
        return torch.cat((odds, torch.full_like(odds[..., :1], _CERTAIN)), dim=-1)

    def detections(self, logits: Tensor, limit: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As without objectness, by the product."""
        return self.inner.best(self.probabilities(logits), limit, allowed)
