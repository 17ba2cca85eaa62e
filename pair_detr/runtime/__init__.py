"""Runs exported models with NumPy, Pillow and ONNX Runtime or OpenVINO: neither torch nor Detectron2 is needed.

In three lines::

    from pair_detr.runtime import load
    detector = load("output/r50_onnx")
    instances = detector("street.jpg")["instances"]
"""

from pair_detr.runtime.description import ModelDescription
from pair_detr.runtime.detector import Detector, load
from pair_detr.runtime.instances import Instances

__all__ = ["Detector", "Instances", "ModelDescription", "load"]
