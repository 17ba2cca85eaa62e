"""The best detections of a batch, as boxes in pixels of the output."""

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from pair_detr.layers import box_iou_pairs, cxcywh_to_xyxy
from pair_detr.losses.classification import ClassScoring
from pair_detr.structures import Predictions


@dataclass
class Detections:
    """K detections of each image, best first; some are to be left out.

    Attributes:
        scores: (B, K) fp32.
        labels: (B, K) int64 class indices.
        queries: (B, K) int64, the query of each; one may be detected under several labels.
        boxes: (B, K, 4) fp32 xyxy in pixels of the output, clipped to it.
        kept: (B, K) bool, false for those to leave out: empty boxes, duplicates, and what was not to be detected.
    """

    scores: Tensor
    labels: Tensor
    queries: Tensor
    boxes: Tensor
    kept: Tensor

    def instances(self, output_sizes: list[tuple[int, int]]) -> list[Instances]:
        """Detectron2's form, with the detections that are to be left out."""
        columns = zip(output_sizes, self.boxes, self.scores, self.labels, strict=True)
        return [Instances(size, pred_boxes=Boxes(b), scores=s, pred_classes=c) for size, b, s, c in columns]


def finite_queries(predictions: Predictions) -> Tensor:
    """(B, Q) bool, false for queries of the last layer that predict NaN or infinity."""
    logits, boxes = predictions.logits[-1], predictions.boxes[-1]
    # A sum is finite only if all of its summands are, and takes the device less time than to look at each.
    return (logits.sum(-1, dtype=torch.float32) + boxes.sum(-1, dtype=torch.float32)).isfinite()


def detect(
    predictions: Predictions,
    frames: Tensor,
    limits: Tensor,
    class_scoring: ClassScoring,
    limit: int,
    allowed: Tensor,
    duplicate_iou: float = 1.0,
) -> Detections:
    """The best detections of the last layer, clipped as by Detectron2's ``detector_postprocess``.

    Args:
        predictions: of the detector.
        frames: (B, 4) fp32, width, height, width and height in pixels of the output of what boxes are relative to.
        limits: (B, 4) fp32, the same of the output.
        class_scoring: how logits become scores.
        limit: at most so many per image.
        allowed: bool, what is to be detected; (B, Q, 1), or (B, Q, C) without a no-object class.
        duplicate_iou: a detection is left out if its box has a larger IoU with a better one of its class.
    """
    scores, labels, queries = class_scoring.detections(predictions.logits[-1], limit, allowed)
    boxes = cxcywh_to_xyxy(predictions.boxes[-1]).gather(1, queries[..., None].expand(-1, -1, 4))
    boxes = torch.minimum((boxes * frames[:, None]).clamp(min=0), limits[:, None])
    image = torch.arange(queries.shape[0], device=boxes.device)[:, None]
    column = labels if allowed.shape[-1] > 1 else torch.zeros_like(labels)
    kept = (boxes[..., 2:] > boxes[..., :2]).all(-1) & allowed[image, queries, column]
    if duplicate_iou < 1:
        kept = kept & ~_duplicates(boxes, labels, kept, duplicate_iou)
    return Detections(scores, labels, queries, boxes, kept)


def _duplicates(boxes: Tensor, labels: Tensor, counts: Tensor, threshold: float) -> Tensor:
    """(B, K) bool, which detections are near a better one of their class among those that count.

    Better ones suppress others although they are suppressed themselves, so that all can be found at once: Fast NMS
    (Bolya et al. 2019, YOLACT, arXiv 1904.02689).
    """
    iou, _ = box_iou_pairs(boxes[:, :, None], boxes[:, None])
    rank = torch.arange(boxes.shape[1], device=boxes.device)
    suppresses = (iou > threshold) & (labels[:, :, None] == labels[:, None]) & counts[:, :, None]
    return (suppresses & (rank[:, None] < rank)).any(1)
