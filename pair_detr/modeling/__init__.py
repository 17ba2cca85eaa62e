"""The detectors: image tensors in, :class:`Predictions` out. Importing the package registers the backbones."""

from pair_detr.modeling.conditional_detr import ConditionalDETR
from pair_detr.modeling.detector import Detector
from pair_detr.modeling.detr import DETR
from pair_detr.modeling.pair_detr import PairDETR
from pair_detr.structures import FeatureMaps, MaskQueries, Memory, Predictions

__all__ = [
    "DETR",
    "ConditionalDETR",
    "Detector",
    "FeatureMaps",
    "MaskQueries",
    "Memory",
    "PairDETR",
    "Predictions",
    "backbone",
]
