"""Models as they are to be used, not trained: see :func:`prepare_for_inference`."""

from pair_detr.inference.prepare import prepare_for_inference

__all__ = ["prepare_for_inference"]
