"""Evaluators: average precision, panoptic quality, and what is particular about datasets, classes and models."""

from pair_detr.evaluation.class_order import ReorderedClassesEvaluator
from pair_detr.evaluation.coco import COCOEvaluator, OpenVocabularyCOCOEvaluator
from pair_detr.evaluation.panoptic import PanopticEvaluator

__all__ = [
    "COCOEvaluator",
    "OpenVocabularyCOCOEvaluator",
    "PanopticEvaluator",
    "ReorderedClassesEvaluator",
]
