"""Attention of one query as a heat map over the image, at the image's own size."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

_COLORS = "inferno"
# Of the heat map, where nothing is attended to and where most is: the image stays visible below it.
_OPACITY = (0.3, 0.95)
# Of the root of an image's area.
_LINE, _CROSS = 0.005, 0.02


def draw_overlay(
    image: np.ndarray,
    weights: np.ndarray,
    extent: tuple[float, float],
    box: Sequence[float],
    reference: Sequence[float] | None = None,
) -> np.ndarray:
    """Draws where a query looks: the brighter, the more, up to its own maximum.

    Args:
        image: (H, W, 3) uint8 RGB.
        weights: (h, w), those of the cells of the feature map.
        extent: width and height in pixels of what the feature map covers; padded images are smaller.
        box: xyxy in pixels, that the query predicts.
        reference: x and y in pixels of its reference point, if it has one.

    Returns:
        (H, W, 3) uint8 RGB, a new image.
    """
    height, width = image.shape[:2]
    relative = _resize((weights / max(weights.max(), np.finfo(np.float32).tiny)).astype(np.float32), extent)
    relative = np.pad(relative, [(0, max(0, height - len(relative))), (0, max(0, width - relative.shape[1]))])
    relative = relative[:height, :width, None].clip(0, 1)
    opacity = _OPACITY[0] + (_OPACITY[1] - _OPACITY[0]) * relative
    gray = image.mean(2, dtype=np.float32, keepdims=True)
    colors = 255 * colormaps[_COLORS](relative[..., 0])[..., :3].astype(np.float32)
    picture = Image.fromarray(((1 - opacity) * gray + opacity * colors).round().astype(np.uint8))
    draw, scale = ImageDraw.Draw(picture), (height * width) ** 0.5
    line = max(1, round(_LINE * scale))
    x1, y1, x2, y2 = box
    # A rectangle must not end before it begins, which rounding can do to a tiny box.
    x2, y2 = max(x1, x2), max(y1, y2)
    # Dark around bright, so that both stand out from any color of the map.
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=line + 2)
    draw.rectangle((x1, y1, x2, y2), outline="white", width=line)
    if reference is not None:
        (x, y), arm = reference, max(4, round(_CROSS * scale))
        for color, thickness in (("black", line + 2), ("cyan", line)):
            draw.line((x - arm, y, x + arm, y), color, thickness)
            draw.line((x, y - arm, x, y + arm), color, thickness)
    return np.asarray(picture)


def _resize(weights: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """(h, w) -> pixels, between the centers of the cells by their distance."""
    size = tuple(max(1, round(side)) for side in extent)
    return np.asarray(Image.fromarray(weights).resize(size, Image.Resampling.BILINEAR))
