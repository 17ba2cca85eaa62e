"""Boxes as tensors; what torchvision lacks or cannot do without waiting for the device."""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) center and size -> (..., 4) top-left and bottom-right corner."""
    return box_convert(boxes, "cxcywh", "xyxy")


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of ``x``, in fp32. As in the official code, numerator and denominator are clamped apart from each other."""
    x = x.float().clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _area(sides: Tensor) -> Tensor:
    """(..., 2) -> (...). The gradient of Tensor.prod waits for the device."""
    return sides[..., 0] * sides[..., 1]


def box_iou_pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU of aligned boxes; broadcasts.

    :func:`torchvision.ops.generalized_box_iou_loss` indexes with a mask, which waits for the device, and
    :func:`torchvision.ops.generalized_box_iou` compares all with all.

    Args:
        boxes1: (..., 4) xyxy, any unit.
        boxes2: (..., 4) xyxy, the same unit.

    Returns:
        Two tensors (...).

    Source: arXiv 1902.09630.
    """
    area1, area2 = (_area(boxes[..., 2:] - boxes[..., :2]) for boxes in (boxes1, boxes2))
    overlap = torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - torch.maximum(boxes1[..., :2], boxes2[..., :2])
    intersection = _area(overlap.clamp(min=0))
    union = area1 + area2 - intersection
    enclosing = torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(boxes1[..., :2], boxes2[..., :2])
    enclosing = _area(enclosing)
    # Two empty boxes have no union; a tiny floor gives 0 rather than NaN.
    iou = intersection / union.clamp(min=1e-12)
    return iou, iou - (enclosing - union) / enclosing.clamp(min=1e-12)


def covered_share(boxes: Tensor, objects: Tensor, image_index: Tensor) -> Tensor:
    """How much of each box the objects of its image cover; where these overlap it counts twice.

    Args:
        boxes: (L, B, Q, 4) cxcywh.
        objects: (T, 4) cxcywh.
        image_index: (T,) int64, the image of each object.

    Returns:
        (L, B, Q) fp32; 1 for boxes without an area.
    """
    boxes = boxes.float()
    candidates, covering = cxcywh_to_xyxy(boxes[:, image_index]), cxcywh_to_xyxy(objects)[:, None]
    top_left = torch.maximum(candidates[..., :2], covering[..., :2])
    sides = (torch.minimum(candidates[..., 2:], covering[..., 2:]) - top_left).clamp(min=0)
    covered = boxes.new_zeros(boxes.shape[:-1]).index_add(1, image_index, _area(sides))
    area = _area(boxes[..., 2:])
    return torch.where(area > 0, covered / area, 1.0)
