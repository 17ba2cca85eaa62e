"""From the queries of a batch to masks at the output size, a few at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.data import PanopticClasses
from pair_detr.modeling import MaskQueries
from pair_detr.segmentation.head import MaskHead
from pair_detr.segmentation.panoptic import merge_panoptic, semantic

# Masks whose probabilities at the output size are in memory at a time.
_CHUNK = 16
# Logit of a pixel that is certainly not in a mask.
_OUTSIDE = -1e4
Size = tuple[int, int]


class BatchMasks:
    """Masks of a batch at the output size, for whatever queries they are asked for.

    Attributes:
        finite: (B, Q) bool, false for queries whose mask held NaN or infinity when it was made, and is empty for that.
    """

    def __init__(
        self,
        head: MaskHead,
        asked: MaskQueries,
        image_sizes: Sequence[Size],
        output_sizes: Sequence[Size],
        padded_size: Size | None = None,
    ) -> None:
        """
        Args:
            head: predicts the masks.
            asked: the queries of the batch, and the images.
            image_sizes: height and width in pixels of each image, before it was padded.
            output_sizes: height and width of the masks of each image.
            padded_size: height and width that they were padded to; None is the largest of each.
        """
        self._head = head
        self._asked = asked
        self._parts = head.image_parts(asked.memory)
        self._image_sizes = image_sizes
        self._output_sizes = output_sizes
        self.finite = torch.ones(asked.states.shape[:2], dtype=torch.bool, device=asked.states.device)
        self._padded_size = padded_size or tuple(max(sides) for sides in zip(*image_sizes, strict=True))

    def chunks(self, image: int, queries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The (n,) queries of an image, a few at a time, each time with their (few, height, width) probabilities."""
        for chunk in queries.split(_CHUNK):
            counts = [0] * len(self._image_sizes)
            counts[image] = len(chunk)
            logits = self._head(self._asked, chunk, counts, self._parts)
            finite = logits.sum((1, 2), dtype=torch.float32).isfinite()
            self.finite[image, chunk] = finite
            logits = torch.where(finite[:, None, None], logits, _OUTSIDE)
            yield chunk, resize_masks(logits, self._padded_size, self._image_sizes[image], self._output_sizes[image])


@dataclass(frozen=True)
class PanopticOptions:
    """What a panoptic model returns beside instances.

    Attributes:
        classes: of the model.
        score_threshold: queries with a lower score have no segment.
        min_area: segments of at most so many pixels are left out.
    """

    classes: PanopticClasses
    score_threshold: float
    min_area: int


def segment_instances(masks: BatchMasks, image: int, queries: Tensor) -> Tensor:
    """(n,) queries of an image, each as often as it is detected -> (n, height, width) bool masks."""
    chosen, position = queries.unique(return_inverse=True)
    return torch.cat([probs > 0.5 for _, probs in masks.chunks(image, chosen)])[position]


def segment_all(
    masks: BatchMasks, image: int, queries: Tensor, class_probs: Tensor, panoptic: PanopticOptions
) -> dict[str, Any]:
    """Segments an image as a whole.

    Args:
        masks: of the batch.
        image: its index there.
        queries: (n,) of the detections.
        class_probs: (Q, C) of all queries, 0 for those to leave out; a column after those of the classes is that of no
            object.
        panoptic: classes and thresholds.

    Returns:
        "pred_masks", (n, height, width) bool; "panoptic_seg" and "sem_seg", see :func:`merge_panoptic` and
        :func:`semantic`.
    """
    classes, device = panoptic.classes, class_probs.device
    is_thing, ids, channels = (
        torch.tensor(x, device=device) for x in (classes.is_thing, classes.category_ids, classes.channels)
    )
    scores, labels = class_probs.max(-1)
    confident = scores > panoptic.score_threshold
    by_channel, binary, of_segments = 0, [], []
    for chunk, probs in masks.chunks(image, torch.arange(len(class_probs), device=device)):
        # A sum over queries, to which those of every chunk add.
        by_channel = by_channel + semantic(probs, class_probs[chunk, : len(is_thing)], channels)
        binary.append(probs > 0.5)
        # A mask that is empty, for it was not finite, would win where there is no other.
        confident[chunk] &= masks.finite[image, chunk]
        of_segments.append(probs[confident[chunk]])
    segments = merge_panoptic(
        torch.cat(of_segments),
        scores[confident],
        labels[confident],
        is_thing,
        panoptic.score_threshold,
        panoptic.min_area,
        ids,
    )
    return {"pred_masks": torch.cat(binary)[queries], "panoptic_seg": segments, "sem_seg": by_channel}


def resize_masks(logits: Tensor, padded_size: Size, image_size: Size, output_size: Size) -> Tensor:
    """Brings masks to the output size.

    Args:
        logits: (N, h, w) of an image in a batch, with its padding.
        padded_size: height and width of the batch in pixels.
        image_size: of the image in it.
        output_size: of the output.

    Returns:
        (N, *output_size) fp32 probabilities.

    Source: PostProcessSegm in DETR's models/segmentation.py, which resizes masks that are binary already.
    """
    height, width = image_size
    logits = F.interpolate(logits[:, None].float(), size=padded_size, mode="bilinear")[..., :height, :width]
    probs = logits.sigmoid()
    if image_size != output_size:
        probs = F.interpolate(probs, size=output_size, mode="bilinear")
    return probs[:, 0]
