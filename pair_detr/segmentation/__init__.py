"""Masks: from queries to masks of instances and to panoptic segments."""

from pair_detr.segmentation.panoptic import merge_panoptic, semantic

__all__ = ["merge_panoptic", "semantic"]
