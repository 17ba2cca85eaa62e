"""What the page says."""

import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pair_detr.app.detection import Detected, PageModel
from pair_detr.utils.messages import counted, join_some, one_line

TABLE_HEADERS = ("#", "class", "score", "box: x1, y1, x2, y2")
WELCOME = "Upload an image, paste one, or take one with the webcam: its detections appear here."
HINT = "Click on a box, or on a row of the table, to see what its query looks at."
NOTHING_THERE = "There is no detection at this point. " + HINT
HOW_TO_CHOOSE = "Names with commas between them, then Enter; empty for the model's own."
LINEAR = "This model has a linear classifier: it detects the classes of its training alone."
KINDS = {
    "combined": "Attention: what the model uses",
    "spatial": "Its spatial part: by position alone",
    "content": "Its content part: by appearance alone",
}
DECODERS = {"center": "center", "top_left": "top-left corner"}
_VARIANTS = {"pair_detr": "Pair DETR", "conditional_detr": "Conditional DETR", "detr": "DETR"}
_NAMED_CLASSES = 12


def summary(model: PageModel) -> str:
    """The model in a line: variant, classes and weights."""
    cfg, classes = model.predictor.cfg, model.own_classes
    variant = _VARIANTS.get(cfg.MODEL.DETR.VARIANT, cfg.MODEL.DETR.VARIANT)
    names = join_some([one_line(name) for name in classes], _NAMED_CLASSES)
    weights = Path(cfg.MODEL.WEIGHTS).name
    device = "CPU" if cfg.MODEL.DEVICE == "cpu" else cfg.MODEL.DEVICE
    return f"{variant} · {counted(len(classes), 'class', 'classes')} ({names}) · {weights} · {device}"


def found(detected: Detected, threshold: float, as_segments: bool = False) -> str:
    """How many detections there are, or what keeps them from being shown; or of panoptic segments."""
    instances = detected.instances
    count = len(detected.above(threshold))
    if as_segments and detected.segments is not None:
        number = counted(len(detected.segments[1]), "panoptic segment")
        text = f"{number}, above the threshold of the config: MODEL.DETR.PANOPTIC.SCORE_THRESHOLD. {HINT}"
    elif count:
        text = f"{counted(count, 'detection')} with a score of at least {threshold:.2f}. {HINT}"
    elif len(instances):
        best = f"{instances.scores[0]:.2f} ({one_line(detected.name(0))})"
        text = f"No detection has a score of {threshold:.2f}: the best one is {best}. Lower the threshold to see it."
    else:
        text = "The model found nothing in this image."
    return f"{detected.note} {text}".strip()


def rows(detected: Detected, threshold: float) -> list[list[Any]]:
    """A row for each detection, see :data:`TABLE_HEADERS`; boxes are in pixels of the file."""
    shown = detected.above(threshold)
    boxes = shown.pred_boxes.tensor.numpy() * np.tile(detected.scale, 2)
    return [
        [index + 1, one_line(detected.name(index)), round(score, 3), ", ".join(f"{side:.0f}" for side in box)]
        for index, (score, box) in enumerate(zip(shown.scores.tolist(), boxes, strict=True))
    ]


def attention_title(detected: Detected, index: int, layer: int, num_layers: int, has_reference: bool) -> str:
    """Whose attention is shown, and how to read it."""
    score = float(detected.instances.scores[index])
    last = ", the last" if layer == num_layers - 1 else ""
    return (
        f"Attention of detection {index + 1}, {one_line(detected.name(index))} {score:.0%}, in layer {layer + 1} of "
        f"{num_layers}{last}, as the mean of all heads. The brighter, the more."
        + " The cross is the reference point of its query."
        * has_reference
    )


def plain(text: str) -> str:
    """A text as it is, for Markdown."""
    return re.sub(r"([\\`*_{}\[\]()<>#+.!|$~-])", r"\\\1", text)


def paragraph(text: str, is_error: bool = False) -> str:
    """A line of the page, in HTML."""
    kind = ' class="problem" role="alert"' if is_error else ' role="status"'
    return f"<p{kind}>{escape(text)}</p>"
