"""Masks of objects in their boxes, and how well other masks agree with them."""

import numpy as np
import torch
from detectron2.structures import BitMasks
from scipy.stats import rankdata

from pair_detr.data.annotation_masks import decode_mask
from pair_detr.studies.class_objects import ClassObjects

# Of the masks that are compared, as in Mask R-CNN.
MASK_SIZE = 28


def crop_mask(objects: ClassObjects, number: int) -> np.ndarray:
    """(28, 28) bool: the mask of an object in its box."""
    width, height = objects.sizes[number].astype(int)
    mask = torch.from_numpy(decode_mask(objects.annotations[number]["segmentation"], height, width))
    box = torch.from_numpy(objects.boxes[number]).float()
    return BitMasks(mask[None]).crop_and_resize(box[None], MASK_SIZE)[0].numpy()


def crop_masks(objects: ClassObjects) -> np.ndarray:
    """(N, 28, 28) bool: the mask of each object in its box."""
    return np.stack([crop_mask(objects, number) for number in range(len(objects.classes))])


def mean_masks(masks: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """(C, 28, 28) mean of (N, 28, 28) masks over the objects of each class."""
    return np.stack([masks[classes == number].mean(0) for number in range(count)])


def mask_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(...) intersection over union of (..., H, W) bool masks; 1 where both are empty."""
    intersection, union = (first & second).sum((-2, -1)), (first | second).sum((-2, -1))
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def soft_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(...) the same of (..., H, W) shares in 0..1: the lesser of two is the intersection, the greater the union."""
    return np.minimum(first, second).sum((-2, -1)) / np.maximum(first, second).sum((-2, -1))


def area_under_curve(scores: np.ndarray, mask: np.ndarray) -> float:
    """How often a pixel of a (H, W) bool mask has a higher score than one outside of it; NaN if one kind is missing.

    That is the area under the curve of true positives over false positives, whatever the threshold (Mann and Whitney).
    """
    inside, outside = mask.sum(), (~mask).sum()
    if not inside or not outside:
        return np.nan
    ranks = rankdata(scores.ravel())[mask.ravel()].sum()
    return float((ranks - inside * (inside + 1) / 2) / (inside * outside))
