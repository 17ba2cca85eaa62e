"""The detectors: image tensors in, :class:`Predictions` out. Importing the package registers backbones and variants."""

from pair_detr.modeling import backbone
from pair_detr.modeling.conditional_detr import ConditionalDETR
from pair_detr.modeling.detector import Detector
from pair_detr.modeling.detr import DETR
from pair_detr.modeling.pair_detr import PairDETR

__all__ = [
    "DETR",
    "ConditionalDETR",
    "Detector",
    "PairDETR",
    "backbone",
]
