"""Answers to what visitors of the page do: pictures, tables and lines of text, without anything of Gradio."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pair_detr.app import texts
from pair_detr.app.detection import Detected, PageModel
from pair_detr.app.uploads import read_upload, without_folders
from pair_detr.drawing.detections import draw_detections
from pair_detr.engine.user_errors import USER_ERRORS, describe_error
from pair_detr.visualization.attention_overlay import draw_overlay

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """What is shown of an image.

    Attributes:
        picture: (H, W, 3) uint8 RGB; None for none.
        status: a line below it, in HTML.
        rows: of the table, see :data:`pair_detr.app.texts.TABLE_HEADERS`.
    """

    picture: np.ndarray | None
    status: str
    rows: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True)
class AttentionView:
    """What is shown of the attention: a line in HTML, and a picture for each kind of map; none before a choice."""

    status: str
    maps: Sequence[np.ndarray] = ()


class Answers:
    """Draws what a model finds."""

    def __init__(self, model: PageModel) -> None:
        self.model = model

    def detect(self, path: str | None, classes: str, threshold: float, segments: bool) -> tuple[Detected | None, View]:
        """Detects in an image that was uploaded.

        Args:
            path: of its file; None if the visitor took it away.
            classes: names with commas between them; "" for the model's own.
            threshold: least score.
            segments: see :meth:`show`.
        """
        if path is None:
            return None, View(None, texts.paragraph(texts.WELCOME))
        try:
            names = [name for name in classes.split(",") if name.strip()] if self.model.takes_vocabulary else []
            detected = self.model.detect(read_upload(path), names)
        except (*USER_ERRORS, TypeError, MemoryError) as error:
            logger.debug("An upload was refused.", exc_info=error)
            clip = self.model.predictor.cfg.MODEL.CLIP
            reason = without_folders(describe_error(error), clip.TEXT_WEIGHTS, clip.CHECKPOINT, path)
            return None, View(None, texts.paragraph(reason, is_error=True))
        return detected, self.show(detected, threshold, segments)

    def show(self, detected: Detected, threshold: float, segments: bool) -> View:
        """Draws what was detected; the model is not asked again.

        Args:
            threshold: least score.
            segments: draw the panoptic segments, which have a threshold of their own.
        """
        outputs = detected.outputs(threshold, segments)
        picture = draw_detections(detected.image[:, :, ::-1], outputs, detected.metadata)
        status = texts.paragraph(texts.found(detected, threshold, segments))
        return View(picture, status, texts.rows(detected, threshold))

    def attend(self, detected: Detected | None, index: int | None, layer: int, decoder: str) -> AttentionView:
        """Draws where the query of a detection looks.

        Args:
            index: of the detection; None if there is none where the visitor clicked.
            layer: of the decoder, counted from 0.
            decoder: one of :attr:`decoders`.
        """
        if detected is None:
            return AttentionView("")
        if index is None:
            return AttentionView(texts.paragraph(texts.NOTHING_THERE))
        found = self.model.attention(detected, index, layer)
        box = detected.instances.pred_boxes.tensor[index].tolist()
        maps = [
            draw_overlay(detected.image, found.maps[decoder][kind], found.extent, box, found.reference.get(decoder))
            for kind in self.model.kinds
        ]
        title = texts.attention_title(detected, index, layer, self.model.num_layers, decoder in found.reference)
        return AttentionView(texts.paragraph(title), maps)
