"""An image twice: its objects beside what was detected."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval

from pair_detr.drawing.objects import draw_objects
from pair_detr.images.reading import read_pixels
from pair_detr.report.image_outcomes import ImageOutcome

# Blue and vermilion, which color-blind people tell apart (Okabe and Ito 2008).
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
# With more, labels cover each other: only what is wrong has one.
_MOST_LABELS = 12
_GAP = 8
# Longer side in pixels that leaves room for labels: smaller images are enlarged.
_SIDE = 480


def draw_outcome(
    outcome: ImageOutcome, file: str, evaluation: COCOeval, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws what is right in blue and what is wrong in vermilion.

    Args:
        outcome: of the image.
        file: of the image.
        evaluation: that the outcome is of.
        class_names: of the categories 1, 2, ...

    Returns:
        the objects, and the detections; each (H, W, 3) uint8 RGB of the image's size, or a multiple for a small image.

    Raises:
        OSError: the image cannot be read.
        ImportError: supervision is not installed.
    """
    pixels = read_pixels(file, "RGB")
    scale = math.ceil(_SIDE / max(pixels.shape[:2]))
    pixels = np.asarray(ImageOps.scale(Image.fromarray(pixels), scale))
    truth, found = evaluation.cocoGt.loadAnns, evaluation.cocoDt.loadAnns
    has_masks = evaluation.params.iouType == "segm"
    return (
        _draw(pixels, truth(outcome.found), truth(outcome.missed), class_names, scale, has_masks),
        _draw(pixels, found(outcome.correct), found(outcome.wrong), class_names, scale, has_masks),
    )


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of the same height, with white between them."""
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _draw(
    pixels: np.ndarray,
    right: Sequence[dict[str, Any]],
    wrong: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    scale: int,
    has_masks: bool,
) -> np.ndarray:
    # What is wrong comes last, over the rest.
    shown = [*right, *wrong]
    labeled = shown if len(shown) <= _MOST_LABELS else list(wrong)[:_MOST_LABELS]
    chosen = {annotation["id"] for annotation in labeled}
    boxes = np.array([annotation["bbox"] for annotation in shown], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes *= scale
    colors = np.array([RIGHT] * len(right) + [WRONG] * len(wrong), np.uint8).reshape(-1, 3)
    masks = None
    if has_masks and shown:
        masks = np.stack([mask_util.decode(annotation["segmentation"]).astype(bool) for annotation in shown])
        masks = masks.repeat(scale, axis=1).repeat(scale, axis=2)
    labels = [_label(annotation, class_names) if annotation["id"] in chosen else "" for annotation in shown]
    return draw_objects(pixels, boxes, labels, colors, masks)


def _label(annotation: dict[str, Any], class_names: Sequence[str]) -> str:
    name = class_names[annotation["category_id"] - 1]
    return f"{name} {annotation['score']:.0%}" if "score" in annotation else name
