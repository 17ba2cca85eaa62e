"""Masks: from queries to masks of instances and to panoptic segments."""

from pair_detr.segmentation.build import build_panoptic, mask_head_factory
from pair_detr.segmentation.criterion import MaskCriterion
from pair_detr.segmentation.head import MaskHead
from pair_detr.segmentation.inference import BatchMasks, PanopticOptions, resize_masks, segment_all, segment_instances
from pair_detr.segmentation.panoptic import merge_panoptic, semantic
from pair_detr.segmentation.target_masks import pack_masks

__all__ = [
    "BatchMasks",
    "MaskCriterion",
    "MaskHead",
    "PanopticOptions",
    "build_panoptic",
    "mask_head_factory",
    "merge_panoptic",
    "pack_masks",
    "resize_masks",
    "segment_all",
    "segment_instances",
    "semantic",
]
