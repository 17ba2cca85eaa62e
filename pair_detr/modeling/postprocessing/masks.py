"""From the queries of a batch to masks at the output size, a few at a time."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.modeling.mask_head import MaskHead
from pair_detr.structures import Batch, MaskQueries, Size

# Masks whose probabilities at the output size are in memory at a time.
_CHUNK = 16

# Logit of a pixel that is certainly not in a mask.
_OUTSIDE = -1e4


class BatchMasks:
    """Masks of a batch at the output size, for whatever queries they are asked for.

    Attributes:
        finite: (B, Q) bool, false for queries whose mask held NaN or infinity when it was made, and is empty for that.
    """

    def __init__(self, head: MaskHead, mask_queries: MaskQueries, batch: Batch) -> None:
        """
        Args:
            head: predicts the masks.
            mask_queries: the queries of the batch, and the features.
            batch: the images.
        """
        self._head = head
        self._mask_queries = mask_queries
        self._parts = head.image_parts(mask_queries.memory)
        self._batch = batch
        self.finite = torch.ones(mask_queries.states.shape[:2], dtype=torch.bool, device=mask_queries.states.device)

    def chunks(self, image: int, queries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The (n,) queries of an image, a few at a time, each time with their (few, height, width) probabilities."""
        batch = self._batch
        for chunk in queries.split(_CHUNK):
            counts = [0] * len(batch.image_sizes)
            counts[image] = len(chunk)
            logits = self._head(self._mask_queries, chunk, counts, self._parts)
            finite = logits.sum((1, 2), dtype=torch.float32).isfinite()
            self.finite[image, chunk] = finite
            logits = torch.where(finite[:, None, None], logits, _OUTSIDE)
            sizes = batch.padded_size, batch.image_sizes[image], batch.output_sizes[image]
            yield chunk, resize_masks(logits, *sizes)


def segment_instances(masks: BatchMasks, image: int, queries: Tensor) -> Tensor:
    """(n,) queries of an image, each as often as it is detected -> (n, height, width) bool masks."""
    chosen, position = queries.unique(return_inverse=True)
    return torch.cat([probs > 0.5 for _, probs in masks.chunks(image, chosen)])[position]


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
