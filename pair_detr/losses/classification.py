"""How class logits are read: as independent sigmoids or as one softmax with a no-object class.

Classifier, matching cost, loss and the choice of detections all depend on this one decision, so they live together.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from pair_detr.structures import Assignment, Targets
from pair_detr.utils.distributed import mean_over_processes


class ClassScoring(ABC):
    """The interface of both readings.

    Attributes:
        prior_prob: probability of every class at the start of the training, None for torch's default initialization.
        default_weight: published weight of the class cost and the class loss.
        uses_iou: whether the loss depends on how well the boxes of matched queries fit.
    """

    prior_prob: float | None
    default_weight: float
    uses_iou: ClassVar[bool] = False

    @abstractmethod
    def num_logits(self, num_classes: int) -> int:
        """Outputs of a classifier for ``num_classes`` classes."""

    @abstractmethod
    def cost(self, logits: Tensor, targets: Targets) -> Tensor:
        """(L, B, Q, C) fp32 logits -> (L, T, Q) cost of each query of an object's image for the object's label."""

    @abstractmethod
    def loss(
        self,
        logits: Tensor,
        assignment: Assignment,
        targets: Targets,
        num_boxes: Tensor,
        selected: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        """Loss of each layer.

        Args:
            logits: (L, B, Q, C) fp32.
            assignment: which query has which object.
            targets: the objects.
            num_boxes: number of objects to normalize with.
            selected: bool, true for the classes that take part, those of the objects among them: (K,), or one that can
                be expanded to (L, B, Q, K), for the K classes without a no-object class. None: all.
            quality: (N,) IoU of each match; given where :attr:`uses_iou`.

        Returns:
            (L,).
        """

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> (..., C) fp32 probabilities, with that of no object the last if there is one."""

    @abstractmethod
    def binary_logits(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> (..., K) log odds of each class against all else, without a no-object class."""

    def class_logits(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> (..., K) log odds of each class of what is an object for sure."""
        return self.binary_logits(logits)

    def objectness(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> (...) log odds of an object, as far as a classifier of known classes can tell."""
        return self.binary_logits(logits).amax(-1)

    @abstractmethod
    def with_class_scores(self, logits: Tensor, log_scores: Tensor) -> Tensor:
        """Logits that are read as other scores of the classes.

        Args:
            logits: (..., C), of which what is beside the classes, such as a no-object class, is taken.
            log_scores: (..., K) fp32 logarithms of the scores, below 0.

        Returns:
            (..., C) fp32.
        """

    @abstractmethod
    def detections(self, logits: Tensor, limit: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The best detections of each image.

        Args:
            logits: (B, Q, C).
            limit: at most so many an image.
            allowed: bool, true for what is to be detected; all else gets a score of 0. (K,) for the K classes without a
                no-object class, or what can be expanded to (B, Q, K). None: all.

        Returns:
            Score, label and query, (B, limit) each.
        """


class SigmoidFocal(ClassScoring):
    """Independent sigmoids with focal loss (arXiv 1708.02002), as in Conditional DETR."""

    default_weight = 2.0

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        prior_prob: float = 0.01,
        one_class_per_query: bool = False,
    ) -> None:
        """``one_class_per_query``: detect each query under its best class alone."""
        self.alpha = alpha
        self.gamma = gamma
        self.prior_prob = prior_prob
        self.one_class_per_query = one_class_per_query

    def num_logits(self, num_classes: int) -> int:
        """See :class:`ClassScoring`."""
        return num_classes

    def cost(self, logits: Tensor, targets: Targets) -> Tensor:
        """Focal loss if the label is given, less the focal loss if it is not."""
        # Indices on both sides of a slice put the objects first: (T, L, Q).
        return self.cost_of(logits[:, targets.image_index, :, targets.labels].transpose(0, 1).sigmoid())

    def cost_of(self, prob: Tensor) -> Tensor:
        """The same of probabilities of the labels."""
        positive = self.alpha * (1 - prob) ** self.gamma * -(prob + 1e-8).log()
        negative = (1 - self.alpha) * prob**self.gamma * -(1 - prob + 1e-8).log()
        return positive - negative

    def loss(
        self,
        logits: Tensor,
        assignment: Assignment,
        targets: Targets,
        num_boxes: Tensor,
        selected: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        """Sum over queries and classes, over the number of objects."""
        where = assignment.layer, assignment.image, assignment.query, targets.labels[assignment.target]
        loss = self.elementwise_loss(logits, where, quality)
        if selected is not None:
            loss = loss * selected
        return loss.sum((1, 2, 3)) / num_boxes

    def elementwise_loss(self, logits: Tensor, where: tuple[Tensor, ...], quality: Tensor | None) -> Tensor:
        """(L, B, Q, C) loss of each logit; ``where`` has the indices of the N positive ones, of that quality."""
        expected = torch.zeros_like(logits)
        # Not 1, a number that would be copied to the device, which waits.
        expected[where] = expected.new_ones(())
        return sigmoid_focal_loss(logits, expected, self.alpha, self.gamma)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each class by itself."""
        return logits.float().sigmoid()

    def binary_logits(self, logits: Tensor) -> Tensor:
        """The logits themselves."""
        return logits

    def with_class_scores(self, logits: Tensor, log_scores: Tensor) -> Tensor:
        """Their log odds."""
        return log_odds(log_scores)

    def detections(self, logits: Tensor, limit: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class: a query can be detected under several labels, unless asked for one."""
        return self.best(self.probabilities(logits), limit, allowed)

    def best(self, scores: Tensor, limit: int, allowed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The same, of (B, Q, K) scores of classes."""
        num_classes = scores.shape[-1]
        scores = _select(scores, allowed)
        if self.one_class_per_query:
            return _best_queries(scores, limit)
        scores = scores.flatten(1)
        # Not min(), which an exported graph would compute anew for each vocabulary.
        scores, index = scores.topk(limit if limit <= scores.shape[1] else scores.shape[1], dim=1)
        query = index // num_classes
        return scores, index - query * num_classes, query


class MatchabilityAware(SigmoidFocal):
    """Independent sigmoids that learn how well the box of a query fits: IoU-aware targets, without alpha.

    Source: DEIM (arXiv 2412.04234, section 3.3). The cost of a match stays the focal one.
    """

    uses_iou = True

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        prior_prob: float = 0.01,
        iou_gamma: float = 1.5,
        one_class_per_query: bool = False,
    ) -> None:
        super().__init__(alpha, gamma, prior_prob, one_class_per_query)
        self.iou_gamma = iou_gamma

    def elementwise_loss(self, logits: Tensor, where: tuple[Tensor, ...], quality: Tensor | None) -> Tensor:
        """Cross entropy with ``quality ** iou_gamma``, where negatives weigh the less the less likely they are."""
        expected = torch.zeros_like(logits)
        expected[where] = quality.pow(self.iou_gamma)
        weight = logits.detach().sigmoid() ** self.iou_gamma
        weight[where] = weight.new_ones(())
        return F.binary_cross_entropy_with_logits(logits, expected, weight, reduction="none")


class Softmax(ClassScoring):
    """One softmax over the classes and a last no-object class, as in DETR."""

    default_weight = 1.0
    prior_prob = None

    def __init__(self, no_object_weight: float = 0.1) -> None:
        self.no_object_weight = no_object_weight

    def num_logits(self, num_classes: int) -> int:
        """See :class:`ClassScoring`."""
        return num_classes + 1

    def cost(self, logits: Tensor, targets: Targets) -> Tensor:
        """Negative probability of the label."""
        return -logits.softmax(-1)[:, targets.image_index, :, targets.labels].transpose(0, 1)

    def loss(
        self,
        logits: Tensor,
        assignment: Assignment,
        targets: Targets,
        num_boxes: Tensor,
        selected: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        """Weighted mean of the cross entropy over all queries; ``num_boxes`` plays no part."""
        no_object = logits.shape[-1] - 1
        if selected is not None:
            logits = logits.masked_fill(~F.pad(selected, (0, 1), value=True), float("-inf"))
        expected = torch.full(logits.shape[:-1], no_object, device=logits.device)
        expected[assignment.layer, assignment.image, assignment.query] = targets.labels[assignment.target]
        weight = torch.where(expected == no_object, self.no_object_weight, 1.0)
        loss = F.cross_entropy(logits.flatten(0, 2), expected.flatten(), reduction="none").view_as(weight)
        total = mean_over_processes(weight.sum((1, 2)), targets.has_boxes, minimum_sum=1e-6)
        return (loss * weight).sum((1, 2)) / total

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of all classes and of no object, which sum to 1."""
        return logits.float().softmax(-1)

    def binary_logits(self, logits: Tensor) -> Tensor:
        """log p - log (1 - p)."""
        return log_odds(logits.log_softmax(-1)[..., :-1])

    def with_class_scores(self, logits: Tensor, log_scores: Tensor) -> Tensor:
        """The probability of no object stays, relative to the scores; all are then scaled to a sum of 1."""
        return torch.cat((log_scores, logits.float().log_softmax(-1)[..., -1:]), dim=-1)

    def detections(self, logits: Tensor, limit: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Each query under its best label."""
        return _best_queries(_select(self.probabilities(logits)[..., :-1], allowed), limit)


def log_odds(log_prob: Tensor) -> Tensor:
    """log p - log (1 - p) of log p."""
    # Where p rounds to 1 the odds would be infinite.
    log_prob = log_prob.clamp(max=-1e-6)
    return log_prob - (-log_prob.expm1()).log()


def _best_queries(scores: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, Q, K) scores -> score, label and query, (B, limit) each, where each query has its best label."""
    scores, labels = scores.max(-1)
    scores, query = scores.topk(min(limit, scores.shape[1]), dim=1)
    return scores, labels.gather(1, query), query


def _select(scores: Tensor, allowed: Tensor | None) -> Tensor:
    # A product would leave NaN, which is above all scores.
    return scores if allowed is None else torch.where(allowed, scores, 0)
