"""Pair DETR, Conditional DETR and DETR as a Detectron2 project.

Importing the package registers the meta-architecture, the backbones and the data sets with Detectron2.
"""

from pair_detr.config import add_pair_detr_config

__version__ = "0.1.0"

__all__ = ["add_pair_detr_config"]
