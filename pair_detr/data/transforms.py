"""Detectron2's resizes, for images of any shape: a side never gets shorter than a pixel."""

import numpy as np
from detectron2.data import transforms as T


class ResizeShortestEdge(T.ResizeShortestEdge):
    """As Detectron2's, which rounds the short side of an image of 4000x1 pixels to 0 where the long one is limited."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return _at_least_a_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """As Detectron2's, which rounds the short side of a thin image to 0."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return _at_least_a_pixel(super().get_transform(image))


def _at_least_a_pixel(transform: T.Transform) -> T.Transform:
    if not isinstance(transform, T.ResizeTransform) or min(transform.new_h, transform.new_w) > 0:
        return transform
    sides = max(transform.new_h, 1), max(transform.new_w, 1)
    return T.ResizeTransform(transform.h, transform.w, *sides, transform.interp)
