"""Denoising queries: noisy copies of the objects, which the decoder learns to repair, in training only."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.modeling.text_classifier import TextClassifier
from pair_detr.structures import Assignment, Targets
from pair_detr.utils.device import to_device_async

# Sides of noisy boxes are at least so long, normalized.
_MIN_SIDE = 1e-3


@dataclass(frozen=True)
class DenoisingOptions:
    """How objects become denoising queries.

    Attributes:
        groups: G, copies of each object; those of different groups do not see each other.
        label_noise: probability of a random label.
        box_noise: how far corners move at most, in halves of the box's sides.
        negatives: add to each copy one that moves by one to two times as much, and belongs to no object (DINO).
    """

    groups: int
    label_noise: float
    box_noise: float
    negatives: bool

    @property
    def kinds(self) -> int:
        """Queries of an object in a group."""
        return 2 if self.negatives else 1

    @property
    def noise_per_object(self) -> int:
        """Random numbers that :attr:`Targets.noise` needs: eight for the box and two for the label of each query."""
        return self.groups * self.kinds * 10


@dataclass
class DenoisingQueries:
    """The N denoising queries of each image: in each group as many as the image with the most objects needs.

    Attributes:
        content: (B, N, D) states to start from: embeddings of labels.
        reference: (B, N, 4) fp32 noisy boxes, cxcywh in 0..1.
        labels: (B, N) int64 the noisy labels, 0 for queries without an object to copy.
        is_copy: (B, N) bool, false for queries without an object to copy.
        num_groups: that the queries are in, one after the other and equally large.
        assignment: of the queries to the objects that they are to become, in all decoder layers.
    """

    content: Tensor
    reference: Tensor
    labels: Tensor
    is_copy: Tensor
    num_groups: int
    assignment: Assignment

    @property
    def groups(self) -> tuple[int, int]:
        """Their number, and queries in each."""
        # A number that varies with a shape does not make torch.compile compile anew.
        return self.num_groups, self.content.shape[1] // self.num_groups

    @property
    def is_used(self) -> Tensor:
        """(B, N) bool, what may be attended to; in images without objects all, as attention to nothing is NaN."""
        return self.is_copy | ~self.is_copy.any(1, keepdim=True)


class Denoising(nn.Module):
    """Makes denoising queries of objects.

    Source: DN-DETR (arXiv 2203.01305, section 4); the negatives are those of DINO (arXiv 2203.03605, section 3.3).
    """

    def __init__(self, options: DenoisingOptions, dim: int, classifier: nn.Module) -> None:
        """
        Args:
            options: see :class:`DenoisingOptions`.
            dim: D, of the states.
            classifier: of the labels. They start as learned states, or, if it compares with texts, as projected texts.
        """
        super().__init__()
        self.options = options
        if isinstance(classifier, TextClassifier):
            self.label_embedding: nn.Module = nn.Linear(classifier.texts.shape[1], dim)
        else:
            self.label_embedding = nn.Embedding(classifier.out_features, dim)

    # Every batch has another number of objects, and would be compiled anew.
    @torch.compiler.disable
    def forward(self, targets: Targets, num_layers: int, classifier: nn.Module) -> DenoisingQueries:
        """Copies each object ``groups`` times; what is random about that is in ``targets.noise``.

        Args:
            targets: T objects.
            num_layers: decoder layers to predict from.
            classifier: as when it was built; a text classifier may have other texts by now.
        """
        groups, kinds = self.options.groups, self.options.kinds
        device, counts = targets.boxes.device, targets.counts
        noise = targets.noise.view(-1, groups, kinds, 10)
        texts = classifier.texts if isinstance(classifier, TextClassifier) else None
        num_classes = self.label_embedding.num_embeddings if texts is None else len(texts)
        labels = self._noisy_labels(targets.labels, noise[..., :2], num_classes)
        content = self.label_embedding(labels if texts is None else texts[labels])
        boxes = self._noisy_boxes(targets.boxes, noise[..., 2:])

        # Without any object one empty slot is left, so that all parameters have a gradient.
        size = kinds * max(1, *counts)
        slot = to_device_async(torch.cat([torch.arange(count) for count in counts]), device)
        slot = slot[:, None, None] * kinds + torch.arange(kinds, device=device)
        query = torch.arange(groups, device=device)[:, None] * size + slot
        where = targets.image_index[:, None, None].expand_as(query), query
        shape = len(counts), groups * size
        is_copy = torch.zeros(shape, dtype=torch.bool, device=device)
        is_copy[where] = is_copy.new_ones(())
        # The copies that have an object are the first of their kind.
        rows = where[0][..., 0], query[..., 0], torch.arange(len(query), device=device)[:, None].expand(-1, groups)
        layer = torch.arange(num_layers, device=device).repeat_interleave(rows[0].numel())
        return DenoisingQueries(
            content=content.new_zeros(*shape, content.shape[-1]).index_put(where, content),
            reference=boxes.new_full((*shape, 4), 0.5).index_put(where, boxes),
            labels=labels.new_zeros(shape).index_put(where, labels),
            is_copy=is_copy,
            num_groups=groups,
            assignment=Assignment(layer, *(row.flatten().repeat(num_layers) for row in rows)),
        )

    def _noisy_labels(self, labels: Tensor, noise: Tensor, num_classes: int) -> Tensor:
        """(T,) labels, (T, G, kinds, 2) numbers in 0..1 -> (T, G, kinds)."""
        other = (noise[..., 1] * num_classes).long().clamp(max=num_classes - 1)
        return torch.where(noise[..., 0] < self.options.label_noise, other, labels[:, None, None])

    def _noisy_boxes(self, boxes: Tensor, noise: Tensor) -> Tensor:
        """(T, 4) boxes, (T, G, kinds, 8) numbers in 0..1 -> (T, G, kinds, 4); all cxcywh."""
        sign = (noise[..., :4] < 0.5).float() * 2 - 1
        # The second kind moves further than the first ever does.
        distance = noise[..., 4:] + torch.arange(noise.shape[2], device=noise.device)[:, None]
        halves = boxes[:, None, None, 2:].repeat(1, 1, 1, 2) / 2
        corners = cxcywh_to_xyxy(boxes)[:, None, None] + sign * distance * halves * self.options.box_noise
        corners = torch.cat((corners.view(*corners.shape[:-1], 2, 2).aminmax(dim=-2)), dim=-1).clamp(0, 1)
        moved = box_convert(corners, "xyxy", "cxcywh")
        return torch.cat((moved[..., :2], moved[..., 2:].clamp(min=_MIN_SIDE)), dim=-1)
