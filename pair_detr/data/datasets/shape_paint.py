"""Paints generated shapes: families of colors that vary and are still told apart surely, and stripes."""

import colorsys
from collections.abc import Sequence

import numpy as np

from pair_detr.data.datasets.shape_classes import STRIPED, ShapeClass
from pair_detr.data.datasets.shapes import Drawing, draw_image

# Degrees of hue in the middle of each family; a color is at most _HUE_SPREAD away.
_HUES = {"red": 0, "green": 120, "blue": 230}
_HUE_SPREAD = 15
# Far enough from the noise's gray.
_SATURATION = (0.7, 1.0)
_VALUE = (0.65, 1.0)
# Width of a band of stripes, in pixels; the smallest shape shows at least three bands.
_BAND = (2.0, 4.0)
# Light bands are so much nearer to white than the color, dark ones have so much of its value.
_LIGHTENED = 0.4
_DARKENED = 0.45


def draw_classes(rng: np.random.Generator, classes: Sequence[ShapeClass], max_shapes: int) -> Drawing:
    """As :func:`pair_detr.data.datasets.shapes.draw_image`, of shapes of these classes."""

    def paint(class_id: int, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        color = _random_color(classes[class_id].color, rng)
        return _stripes(color, shape, rng) if classes[class_id].texture == STRIPED else _to_uint8(color)

    return draw_image(rng, [own.shape for own in classes], paint, max_shapes)


def _random_color(family: str, rng: np.random.Generator) -> np.ndarray:
    """(3,) RGB from 0 to 1."""
    hue = (_HUES[family] + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) / 360 % 1
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(*_SATURATION), rng.uniform(*_VALUE)))


def _stripes(color: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, 3) uint8 of the N pixels of a mask: light and dark bands of a color, in a random direction."""
    width, angle, phase = rng.uniform(*_BAND), rng.uniform(0, np.pi), rng.uniform(0, 2)
    rows, columns = np.nonzero(shape)
    band = (columns * np.cos(angle) + rows * np.sin(angle)) / width + phase
    light, dim = color + (1 - color) * _LIGHTENED, color * _DARKENED
    return _to_uint8(np.where((np.floor(band) % 2 == 1)[:, None], dim, light))


def _to_uint8(color: np.ndarray) -> np.ndarray:
    return (color * 255).round().astype(np.uint8)
