"""Supervision by labels of whole images: one query of each decoder layer takes a label (Detic, arXiv 2201.02605).

The losses differ in which query they choose. All of them are functions of the candidates, whose ``logits`` are those of
one binary classifier per class, and of the N labels of the batch; they return the (L, N) binary cross entropy, summed
over all classes, of each label in each layer. The label is the positive class and all others, other labels of the image
included, are negative, as in Detic. The choice has no gradient: of the predictions only the logits of the chosen query
get one, the boxes never.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from pair_detr.config.choices import MULTI_DATASET_SAMPLER
from pair_detr.config.variants import variant_of
from pair_detr.layers import covered_share, cxcywh_to_xyxy
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.objectness import ObjectnessScoring
from pair_detr.structures import ImageLabels, Predictions, Targets
from pair_detr.utils.device import to_device_async

# Keeps quotients and the logarithm of WSDDN's sums finite.
_EPSILON = 1e-6
# Share of a box in known objects from which they explain it (docs/results.md, "BCCD with the boxes").
_MIN_EXPLAINED = 0.4


@dataclass
class Candidates:
    """What a label chooses from: the Q queries of L layers and B images.

    Attributes:
        logits: (L, B, Q, C) log odds of each class of what is an object for sure; the loss is of these.
        scores: (L, B, Q, C) log odds of an object of each class, to choose by; the same, but for classifiers with
            objectness.
        objectness: (L, B, Q) log odds of an object of any class.
        boxes: (L, B, Q, 4) cxcywh.
        top_left: (L, B, Q, 2), see :class:`Predictions`.
        explained: (L, B, Q) bool, true for boxes that known objects cover, which labels are not of; None if none are
            known, or scores tell objects apart: a tie is of its own class on any person.
        taught_objectness: (L, B, Q) as ``objectness``, of which labels teach that what takes them is an object; None
            where they teach classes alone.
    """

    logits: Tensor
    scores: Tensor
    objectness: Tensor
    boxes: Tensor
    top_left: Tensor | None = None
    explained: Tensor | None = None
    taught_objectness: Tensor | None = None


def max_size(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The query with the largest box takes all labels of the image."""
    area = candidates.boxes[..., 2] * candidates.boxes[..., 3]
    return _loss_of_best(candidates, area[:, labels.image_index], labels)


def max_score(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The query with the highest score for the label takes it."""
    return _loss_of_best(candidates, _of_label(candidates.scores, labels), labels)


def max_any_class(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The query that is most likely an object takes all labels of the image.

    Detic takes the first proposal, that of the highest objectness. A DETR has no score of objectness, unless
    MODEL.CLIP.OBJECTNESS adds one: it is the highest score for any class otherwise.
    """
    return _loss_of_best(candidates, candidates.objectness[:, labels.image_index], labels)


def min_loss(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The query whose loss is the least takes the label: few other classes count as well as a high score for it."""
    # The binary cross entropy without the label's own term.
    negatives = F.softplus(candidates.scores).sum(-1)[:, labels.image_index]
    return _loss_of_best(candidates, _of_label(candidates.scores, labels) - negatives, labels)


def pair_score(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The query on whose box both decoders of Pair DETR agree best takes all labels of the image."""
    return _loss_of_best(candidates, -_disagreement(candidates)[:, labels.image_index], labels)


def objectness(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The query that is most likely an object takes all labels of the image, whatever class it seems to be of.

    That is the product of its objectness and of how well the decoders of Pair DETR, where there are two, agree on its
    box. This project's own.
    """
    score = F.logsigmoid(candidates.objectness) + _log_agreement(candidates)
    return _loss_of_best(candidates, score[:, labels.image_index], labels)


def object_score(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The query that is most likely an object of the label's class takes it, by its score and that agreement.

    Objects of classes with boxes, of which the label is a negative there, are soon out of the question. This project's
    own.
    """
    score = F.logsigmoid(_of_label(candidates.scores, labels))
    return _loss_of_best(candidates, score + _log_agreement(candidates)[:, labels.image_index], labels)


def image_mean(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """The whole image takes all its labels.

    Detic classifies a box of the whole image. A DETR cannot classify a given box: the mean over the queries' logits
    stands for it, and so every query gets a gradient.
    """
    return _binary_cross_entropy(candidates.logits.mean(2)[:, labels.image_index], labels)


def wsddn(candidates: Candidates, labels: ImageLabels) -> Tensor:
    """Each query takes a part of each label: the more, the higher its score is among the queries of the image.

    The score of the image is the sum over queries of sigmoid(logit) * softmax(logits over the queries). WSDDN (arXiv
    1511.02853) and Detic have a classifier of its own for the softmax, here both read the same logits.
    """
    logits = candidates.logits
    score = (logits.sigmoid() * logits.softmax(2)).sum(2).clamp(_EPSILON, 1 - _EPSILON)
    return _binary_cross_entropy(score.logit()[:, labels.image_index], labels)


IMAGE_LABEL_LOSSES: dict[str, Callable[[Candidates, ImageLabels], Tensor]] = {
    "max_size": max_size,
    "max_score": max_score,
    "first": max_any_class,
    "image": image_mean,
    "min_loss": min_loss,
    "wsddn": wsddn,
    "pair_score": pair_score,
    "objectness": objectness,
    "object_score": object_score,
}

# Those of which the scores of queries are no part.
_CHOICES_BY_BOXES = (max_size, pair_score)


class ImageLabelCriterion(nn.Module):
    """Loss of a batch of images that have labels, but no boxes; zero for other batches."""

    @configurable
    def __init__(
        self,
        *,
        loss: Callable[[Candidates, ImageLabels], Tensor],
        weight: float,
        class_scoring: ClassScoring,
        classifier_only: bool = False,
        teaches_objectness: bool = False,
        fixes_statistics: bool = False,
    ) -> None:
        """
        Args:
            loss: one of :data:`IMAGE_LABEL_LOSSES`.
            weight: of the loss.
            class_scoring: how logits become scores.
            classifier_only: train the classifier alone, and not what it classifies.
            teaches_objectness: train the classifier's objectness, too, and in any case not what it classifies, which
                would make boxes drift that nothing corrects.
            fixes_statistics: BatchNorm normalizes batches with labels as in inference; the caller sees to that.
        """
        super().__init__()
        self.loss = loss
        self.chooses_by_boxes = loss in _CHOICES_BY_BOXES
        self.weight = weight
        self.class_scoring = class_scoring
        self.classifier_only = classifier_only
        self.teaches_objectness = teaches_objectness
        self.fixes_statistics = fixes_statistics

    @classmethod
    def from_config(cls, cfg: CfgNode, class_scoring: ClassScoring) -> dict[str, Any]:
        """Reads MODEL.DETR.IMAGE_LABELS."""
        options = cfg.MODEL.DETR.IMAGE_LABELS
        if options.LOSS not in IMAGE_LABEL_LOSSES:
            raise ValueError(
                f"MODEL.DETR.IMAGE_LABELS.LOSS is {options.LOSS!r}; choose one of {', '.join(IMAGE_LABEL_LOSSES)}."
            )
        if options.LOSS == "pair_score" and "top_left" not in variant_of(cfg).decoder_names:
            raise ValueError(
                "MODEL.DETR.IMAGE_LABELS.LOSS is 'pair_score', which compares the two decoders of Pair DETR, but "
                f"MODEL.DETR.VARIANT is {cfg.MODEL.DETR.VARIANT!r}: choose another loss, for example max_size."
            )
        if options.LOSS == "pair_score" and cfg.MODEL.DETR.PAIR.BOX_DECODING == "pair":
            raise ValueError(
                "MODEL.DETR.IMAGE_LABELS.LOSS is 'pair_score', but with MODEL.DETR.PAIR.BOX_DECODING 'pair' boxes are "
                "made of both decoders' points, which cannot disagree: set BOX_DECODING to center, or another loss."
            )
        if options.LOSS in ("image", "wsddn") and isinstance(class_scoring, ObjectnessScoring):
            raise ValueError(
                f"MODEL.DETR.IMAGE_LABELS.LOSS is {options.LOSS!r}, which gives a label to all queries, but with "
                "MODEL.CLIP.OBJECTNESS only an object has a class: choose another loss, for example objectness."
            )
        if options.OBJECTNESS and not isinstance(class_scoring, ObjectnessScoring):
            raise ValueError(
                "MODEL.DETR.IMAGE_LABELS.OBJECTNESS is True, but without MODEL.CLIP.OBJECTNESS there is none to learn: "
                "set both, or neither."
            )
        if options.OBJECTNESS and IMAGE_LABEL_LOSSES[options.LOSS] not in _CHOICES_BY_BOXES:
            raise ValueError(
                f"MODEL.DETR.IMAGE_LABELS.OBJECTNESS is True, but LOSS {options.LOSS!r} chooses by scores: a query on "
                "the background, chosen once, would make sure to be chosen again. Set LOSS to max_size, or OBJECTNESS "
                "to False."
            )
        if not 0 <= options.WEIGHT < math.inf:
            raise ValueError(
                f"MODEL.DETR.IMAGE_LABELS.WEIGHT is {options.WEIGHT}; a weight must be 0 or more, for example 0.1."
            )
        return {
            "loss": IMAGE_LABEL_LOSSES[options.LOSS],
            "weight": options.WEIGHT,
            "classifier_only": options.CLASSIFIER_ONLY,
            "teaches_objectness": options.OBJECTNESS,
            "fixes_statistics": options.FIXED_STATISTICS,
            "class_scoring": class_scoring,
        }

    def forward(self, predictions: Predictions, targets: Targets, classifier: Callable[[Tensor], Tensor]) -> Tensor:
        """The weighted loss, fp32 under autocast, too.

        Args:
            predictions: of the detector.
            targets: of the batch.
            classifier: makes the logits of ``predictions.states``.

        Returns:
            The mean over the labels of an image, the mean over the images of the batch and the sum over the layers.
            For a batch with boxes it is a zero that is connected to the graph, as DistributedDataParallel needs it.
        """
        labels = targets.image_labels
        if labels is None:
            return predictions.logits[..., :0].float().sum()
        detached = None
        if self.classifier_only or self.teaches_objectness:
            detached = classifier(predictions.states.detach())
        logits = detached if self.classifier_only else predictions.logits
        with torch.autocast(predictions.boxes.device.type, enabled=False):
            logits = logits.float()
            with torch.no_grad():
                scores = self.class_scoring.binary_logits(logits)
            candidates = Candidates(
                self.class_scoring.class_logits(logits),
                scores,
                self.class_scoring.objectness(logits),
                predictions.boxes.float(),
                predictions.top_left,
                self._explained(predictions, labels.known),
                self.class_scoring.objectness(detached.float()) if self.teaches_objectness else None,
            )
            # Of the first group of queries, that of inference.
            labels = replace(labels, image_index=labels.image_index * predictions.groups)
            by_label = self.loss(candidates, labels)
            counts = to_device_async(torch.tensor(labels.counts, dtype=torch.float32), logits.device)
            return self.weight * (by_label / counts[targets.image_labels.image_index]).sum() / len(counts)

    @torch.no_grad()
    def _explained(self, predictions: Predictions, known: Targets | None) -> Tensor | None:
        """See :class:`Candidates`; in the first group of queries alone."""
        if known is None or not self.chooses_by_boxes:
            return None
        share = covered_share(predictions.boxes, known.boxes, known.image_index * predictions.groups)
        return share >= _MIN_EXPLAINED


def build_image_label_criterion(cfg: CfgNode, class_scoring: ClassScoring) -> ImageLabelCriterion | None:
    """The criterion of a training on datasets of both kinds; None for others.

    Raises:
        ValueError: a key under MODEL.DETR.IMAGE_LABELS has a value that it cannot have.
    """
    mixed = cfg.DATALOADER.SAMPLER_TRAIN == MULTI_DATASET_SAMPLER
    # With a single class an image label says nothing, and to masks neither.
    useless = cfg.MODEL.DETR.CLASS_AGNOSTIC or cfg.MODEL.DETR.MASK.FREEZE_DETECTOR
    return ImageLabelCriterion(cfg, class_scoring) if mixed and not useless else None


def _disagreement(candidates: Candidates) -> Tensor:
    """(L, B, Q) distance of the corner of one decoder from that of the other's box, in units of the box's sides.

    The two are trained to agree on objects and nowhere else, whatever the class; the cosine of their embeddings is not,
    it is high for all queries. This project's own.
    """
    boxes = candidates.boxes
    distance = (candidates.top_left - cxcywh_to_xyxy(boxes)[..., :2]).abs().sum(-1)
    return distance / boxes[..., 2:].sum(-1).clamp(min=_EPSILON)


def _log_agreement(candidates: Candidates) -> Tensor:
    """(L, B, Q) what falls as :func:`_disagreement` grows, 0 at most; 0 where there is one decoder."""
    if candidates.top_left is None:
        return torch.zeros_like(candidates.objectness)
    return -_disagreement(candidates)


def _of_label(logits: Tensor, labels: ImageLabels) -> Tensor:
    """(L, B, Q, C) -> (L, N, Q), the logits for each label of the queries of its image."""
    # Indices on both sides of a slice put the labels first.
    return logits[:, labels.image_index, :, labels.labels].transpose(0, 1)


def _loss_of_best(candidates: Candidates, scores: Tensor, labels: ImageLabels) -> Tensor:
    """(L, N) loss of the query with the highest of the (L, N, Q) scores, among those that nothing explains, if any."""
    if candidates.explained is not None:
        explained = candidates.explained[:, labels.image_index]
        scores = scores.masked_fill(explained & ~explained.all(-1, keepdim=True), -torch.inf)
    query = scores.argmax(-1)
    layer = torch.arange(len(query), device=query.device)[:, None]
    where = layer, labels.image_index, query
    loss = _binary_cross_entropy(candidates.logits[where], labels)
    if candidates.taught_objectness is None:
        return loss
    return loss + F.softplus(-candidates.taught_objectness[where])


def _binary_cross_entropy(logits: Tensor, labels: ImageLabels) -> Tensor:
    """(L, N, C) logits, a row for each label -> (L, N) sum over the classes."""
    expected = F.one_hot(labels.labels, logits.shape[-1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, expected.expand_as(logits), reduction="none").sum(-1)
