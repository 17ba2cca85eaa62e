"""Boxes, masks and labels on an image, by supervision's annotators, at the image's own size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import hsv_to_rgb
from PIL import Image, ImageDraw, ImageFont

from pair_detr.drawing.supervision import require_supervision
from pair_detr.drawing.text import font_file, printable

_MASK_OPACITY = 0.45
# Of the root of an image's area.
_LINE, _TEXT = 0.004, 0.026
_THINNEST, _SMALLEST_TEXT = 2, 10
# Of an image, by labels: beyond it, they hide what they name.
_COVERED = 0.25
# Relative luminance above which black text is read more easily than white (WCAG 2.1, equal contrast).
_BRIGHT = 0.179
# The part of a turn between the hues of two classes that leaves no two of them close: the golden ratio's.
_HUE_STEP = (math.sqrt(5) - 1) / 2


def class_colors(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB colors, the same for a class in every picture; the first ones are far from each other."""
    named = (255 * np.array(colormaps["tab10"].colors)).round().astype(np.uint8)
    # Gray is that of many images.
    named = np.delete(named, 7, axis=0)
    if count <= len(named):
        return named[:count]
    hues = np.arange(len(named), count) * _HUE_STEP % 1
    brightness = np.where(np.arange(len(named), count) % 2, 0.95, 0.7)
    more = hsv_to_rgb(np.stack([hues, np.full(len(hues), 0.85), brightness], 1))
    return np.concatenate([named, (255 * more).round().astype(np.uint8)])


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: np.ndarray,
    masks: np.ndarray | None = None,
) -> np.ndarray:
    """Draws objects.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy in pixels.
        labels: N texts, of any characters; "" for none. Those that come first have precedence: where all of them would
            cover more than a quarter of the image, the others are left out.
        colors: (N, 3) uint8 RGB.
        masks: (N, H, W) bool; None for boxes alone.

    Returns:
        (H, W, 3) uint8 RGB, a new image.

    Raises:
        ImportError: supervision is not installed.
    """
    sv = require_supervision()
    if not len(boxes):
        return np.array(image, order="C")
    # supervision draws in OpenCV's order of channels.
    canvas = np.array(image[:, :, ::-1], order="C")
    detections = sv.Detections(
        xyxy=np.asarray(boxes, np.float32).reshape(-1, 4), mask=masks, class_id=np.arange(len(boxes))
    )
    palette = _palette(colors)
    scale = math.sqrt(image.shape[0] * image.shape[1])
    thickness = max(_THINNEST, round(_LINE * scale))
    if masks is not None:
        canvas = sv.MaskAnnotator(palette, opacity=_MASK_OPACITY).annotate(canvas, detections)
        # Selecting the labels' detections would copy the masks, which are large.
        detections.mask = None
    # A line of the other brightness on both sides keeps any color legible on any background.
    text_palette = _palette(_text_colors(colors))
    canvas = sv.BoxAnnotator(text_palette, thickness + 2).annotate(canvas, detections)
    canvas = sv.BoxAnnotator(palette, thickness).annotate(canvas, detections)
    named = [number for number, label in enumerate(labels) if label]
    texts = printable(labels[number] for number in named)
    size = max(_SMALLEST_TEXT, round(_TEXT * scale))
    padding = max(2, size // 5)
    fitting = _count_fitting(texts, size, padding, _COVERED * image.shape[0] * image.shape[1])
    named, texts = named[:fitting], texts[:fitting]
    for font in dict.fromkeys(map(font_file, texts)):
        chosen = [number for number, text in zip(named, texts, strict=True) if font_file(text) == font]
        annotator = sv.RichLabelAnnotator(
            palette,
            text_color=text_palette,
            font_path=font,
            font_size=size,
            text_padding=padding,
            smart_position=True,
        )
        canvas = annotator.annotate(
            canvas, detections[np.array(chosen)], [text for text in texts if font_file(text) == font]
        )
    return np.array(canvas[:, :, ::-1], order="C")


def draw_caption(image: np.ndarray, text: str) -> np.ndarray:
    """Writes a text into the top left corner of an (H, W, 3) uint8 RGB image; returns a new one."""
    (text,) = printable([text])
    size = max(_SMALLEST_TEXT, round(_TEXT * math.sqrt(image.shape[0] * image.shape[1])))
    picture = Image.fromarray(np.ascontiguousarray(image))
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(font_file(text), size)
    *_, right, bottom = draw.textbbox((size // 3, size // 3), text, font)
    draw.rectangle((0, 0, right + size // 3, bottom + size // 3), fill="black")
    draw.text((size // 3, size // 3), text, "white", font)
    return np.asarray(picture)


def _count_fitting(texts: Sequence[str], size: int, padding: int, area: float) -> int:
    """How many labels, the first ones, fit into an area in pixels; at least one."""
    widths = [ImageFont.truetype(font_file(text), size).getlength(text) for text in texts]
    covered = np.cumsum([(width + 2 * padding) * (size + 2 * padding) for width in widths])
    return max(1, int(np.searchsorted(covered, area, side="right")))


def _text_colors(colors: np.ndarray) -> np.ndarray:
    """(N, 3) uint8: black or white, whichever is easier to read on each of the colors."""
    linear = np.where((share := np.asarray(colors) / 255) <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance[:, None] > _BRIGHT, 0, 255).astype(np.uint8).repeat(3, axis=1)


def _palette(colors: np.ndarray) -> Any:
    sv = require_supervision()
    return sv.ColorPalette([sv.Color(*map(int, color)) for color in colors])
