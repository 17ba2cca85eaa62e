"""What the page asks of a model: detections, and the attention of their queries. One visitor at a time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from PIL import Image

from pair_detr.app.uploads import Upload
from pair_detr.images.inputs import as_format
from pair_detr.modeling.decoder import ConditionalDecoder
from pair_detr.open_vocabulary import Vocabulary, class_list
from pair_detr.predictor import Predictor
from pair_detr.visualization.attention_report import report_attention


@dataclass(frozen=True)
class QueryAttention:
    """Where one query looks, as the mean over the heads of a layer.

    Attributes:
        maps: (h, w) by decoder and kind, see :attr:`pair_detr.visualization.attention_report.AttentionReport.cross`.
        reference: x and y in pixels by decoder, of those that have reference points.
        extent: width and height in pixels of what a map covers.
    """

    maps: dict[str, dict[str, np.ndarray]]
    reference: dict[str, np.ndarray]
    extent: tuple[float, float]


@dataclass(frozen=True)
class _LayerAttention:
    """The same of all queries: arrays have one more axis, the first, of K queries, whose boxes and scores these are."""

    boxes: np.ndarray
    scores: np.ndarray
    maps: dict[str, dict[str, np.ndarray]]
    reference: dict[str, np.ndarray]
    extent: tuple[float, float]


@dataclass(eq=False)
class Detected:
    """An image and what was found in it; pixels are those of the picture that the page shows.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        note: what of the file was left out, "" if nothing was.
        instances: best first, on the CPU, without their masks.
        masks: (N, H, W / 8) uint8, their pixels as bits; None of a model without masks.
        segments: panoptic ones, as Detectron2's models give them; None of other models.
        metadata: names of the classes.
        scale: width and height of the image in its file, each divided by that of the picture.
        prepared: input of the model.
        vocabulary: that the model had; None with a linear classifier.
        layers: attention of the decoder layers that was looked at.
    """

    image: np.ndarray
    note: str
    instances: Instances
    masks: np.ndarray | None
    segments: tuple[torch.Tensor, list[dict[str, Any]]] | None
    metadata: Metadata
    scale: np.ndarray
    prepared: dict[str, Any]
    vocabulary: Vocabulary | None
    layers: dict[int, _LayerAttention] = field(default_factory=dict)

    def above(self, threshold: float) -> Instances:
        """The first detections, those with at least this score."""
        return self.instances[self.instances.scores >= threshold]

    def outputs(self, threshold: float, as_segments: bool = False) -> dict[str, Any]:
        """What to draw: detections with at least this score, or the panoptic segments if there are any."""
        if as_segments and self.segments is not None:
            return {"panoptic_seg": self.segments}
        shown = self.above(threshold)
        if self.masks is not None:
            bits = np.unpackbits(self.masks[: len(shown)], axis=2, count=self.image.shape[1])
            shown.pred_masks = torch.from_numpy(bits).bool()
        return {"instances": shown}

    def name(self, index: int) -> str:
        """Class of a detection."""
        return self.metadata.thing_classes[self.instances.pred_classes[index]]

    def at(self, x: float, y: float, threshold: float) -> int | None:
        """The smallest detection with at least this score that has the pixel in its box; None if none has."""
        boxes = self.above(threshold).pred_boxes
        x1, y1, x2, y2 = boxes.tensor.T
        inside = ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).nonzero()[:, 0]
        return int(inside[boxes.area()[inside].argmin()]) if len(inside) else None


class PageModel:
    """A model that several visitors share, each with the classes of their choice."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._lock = threading.Lock()
        self._own = self._vocabulary = _vocabulary_of(predictor)

    @property
    def takes_vocabulary(self) -> bool:
        """Whether it can detect other classes than its own."""
        return self._own is not None

    @property
    def is_panoptic(self) -> bool:
        """Whether it also divides images into segments."""
        return self.predictor.model.panoptic is not None

    @property
    def num_layers(self) -> int:
        """Of a decoder."""
        return len(self.predictor.model.detector.decoder.layers)

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders whose attention there is."""
        return list(self.predictor.model.detector.decoder_names)

    @property
    def kinds(self) -> list[str]:
        """Of the maps of attention, see :attr:`pair_detr.visualization.attention_report.AttentionReport.cross`."""
        is_conditional = isinstance(self.predictor.model.detector.decoder, ConditionalDecoder)
        return ["combined", "spatial", "content"] if is_conditional else ["combined"]

    @property
    def own_classes(self) -> list[str]:
        """Names of the classes that it has by itself."""
        return list(self._own.names) if self._own else list(self.predictor.metadata.thing_classes)

    def detect(self, upload: Upload, names: Sequence[str] = ()) -> Detected:
        """Detects objects of the classes with these names; of the model's own if there are none.

        Raises:
            ValueError: the model does not know one of the names, or cannot take any.
        """
        prepared = self.predictor.prepare(upload.image)
        width, height = upload.shown_size
        # Boxes and masks come in pixels of the picture: masks of large photographs would fill the memory.
        prepared |= {"height": height, "width": width}
        pixels = as_format(upload.image, "RGB")
        if upload.image.size != upload.shown_size:
            pixels = np.asarray(Image.fromarray(pixels).resize(upload.shown_size, reducing_gap=2.0))
        with self._lock:
            self._use(self._choose(names) if names else self._own)
            (outputs,) = self.predictor.predict([prepared])
            metadata, vocabulary = self.predictor.metadata, self._vocabulary
        instances, masks, segments = outputs["instances"].to("cpu"), None, outputs.get("panoptic_seg")
        if instances.has("pred_masks"):
            # A byte a pixel of every query would be hundreds of megabytes.
            masks = np.packbits(instances.pred_masks.numpy(), axis=2)
            instances.remove("pred_masks")
        if segments is not None:
            segments = (segments[0].cpu(), segments[1])
        scale = np.divide(upload.image.size, upload.shown_size)
        return Detected(pixels, upload.note, instances, masks, segments, metadata, scale, prepared, vocabulary)

    def attention(self, detected: Detected, index: int, layer: int) -> QueryAttention:
        """Where the query of a detection looks.

        Args:
            index: of the detection.
            layer: of the decoder, counted from 0.
        """
        if layer not in detected.layers:
            detected.layers[layer] = self._attend(detected, layer)
        found = detected.layers[layer]
        instances = detected.instances
        box, score = instances.pred_boxes.tensor[index].numpy(), float(instances.scores[index])
        # The model does not say which query a detection is of, but its box does; of equal ones, the score.
        distances = np.abs(found.boxes - box).max(1).round(1)
        query = np.lexsort((np.abs(found.scores - score), distances))[0]
        maps = {decoder: {kind: m[query] for kind, m in kinds.items()} for decoder, kinds in found.maps.items()}
        return QueryAttention(maps, {name: at[query] for name, at in found.reference.items()}, found.extent)

    def _attend(self, detected: Detected, layer: int) -> _LayerAttention:
        model = self.predictor.model
        with self._lock:
            self._use(detected.vocabulary)
            report = report_attention(model, detected.prepared, model.detector.query_embed.num_embeddings, layer, ())
        maps = {
            decoder: {kind: weights.mean(1) for kind, weights in kinds.items()}
            for decoder, kinds in report.cross.items()
        }
        return _LayerAttention(report.boxes, report.scores, maps, report.reference, report.extent)

    def _choose(self, names: Sequence[str]) -> Vocabulary | list[str]:
        """Texts of the model itself for names that are all among its own, which need no file of this machine."""
        chosen = list(class_list(names))
        return self._own.select(chosen) if self._own and None not in self._own.find(chosen) else chosen

    def _use(self, classes: Vocabulary | list[str] | None) -> None:
        if classes is None or classes is self._vocabulary:
            return
        self.predictor.set_vocabulary(classes)
        self._vocabulary = classes if isinstance(classes, Vocabulary) else _vocabulary_of(self.predictor)


def _vocabulary_of(predictor: Predictor) -> Vocabulary | None:
    """The names and texts of the classes that a model has now; None with a linear classifier."""
    if (names := predictor.model.vocabulary) is None:
        return None
    return Vocabulary(names, predictor.model.detector.class_head.texts, source="The model's vocabulary")
