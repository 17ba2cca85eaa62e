"""Detection in overlapping tiles of large images, by supervision's ``InferenceSlicer``."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from pair_detr.drawing.supervision import require_supervision
from pair_detr.images.inputs import ImageInput, as_format
from pair_detr.prediction.supervision_results import to_supervision
from pair_detr.utils.batched import predict_in_order

# Of two detections of a class of which that much of the smaller one is shared, the one of the lower score is dropped.
# Not of their union: what the border of a tile cuts off may be most of an object.
_SHARED = 0.5


class BatchPredictor(Protocol):
    """What :class:`pair_detr.Predictor` and an exported model have in common."""

    metadata: Metadata
    category_ids: Sequence[int] | None

    def prepare_sized(self, image: ImageInput) -> tuple[Any, tuple[int, int]]:
        """What :meth:`predict` takes of an image, and its height and width there."""

    def predict(self, prepared: Sequence[Any]) -> list[dict[str, Any]]:
        """Detectron2's outputs of each."""


class TiledPredictor:
    """Detects in each tile of an image, and merges the detections; in place of the predictor that it has.

    Attributes:
        metadata: of the predictor, as ``category_ids``.
    """

    def __init__(
        self, predictor: BatchPredictor, size: int, overlap: float = 0.2, batch_size: int = 4, threshold: float = 0.0
    ) -> None:
        """
        Args:
            predictor: detects in the tiles.
            size: height and width of a tile in pixels of the image.
            overlap: share of a tile, 0 to below 1, that the next one has as well; objects that are larger than that are
                cut into parts.
            batch_size: tiles to detect in at once.
            threshold: least score of a detection of a tile; the best of a tile is kept in any case.

        Raises:
            ImportError: supervision is not installed.
            ValueError: the predictor is of a panoptic model.
        """
        if predictor.metadata.get("stuff_classes"):
            raise ValueError(
                "The segments of a panoptic model cannot be merged: leave out --tile, or set "
                "MODEL.DETR.PANOPTIC.ENABLED to False."
            )
        self.metadata = predictor.metadata
        self.category_ids = predictor.category_ids
        self._predictor = predictor
        self._batch_size = batch_size
        self._threshold = threshold
        sv = require_supervision()
        self._slicer = sv.InferenceSlicer(
            self._detect,
            size,
            overlap_wh=round(overlap * size),
            iou_threshold=_SHARED,
            overlap_metric=sv.OverlapMetric.IOS,
            # With 1 it would give tiles alone, rather than lists.
            batch_size=max(batch_size, 2),
        )

    def prepare_sized(self, image: ImageInput) -> tuple[np.ndarray, tuple[int, int]]:
        """(H, W, 3) uint8 pixels in BGR order, and height and width."""
        pixels = as_format(image, "BGR")
        return pixels, pixels.shape[:2]

    def predict(self, prepared: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Of each image {"instances": Instances}, best first."""
        return [{"instances": self._merged(pixels)} for pixels in prepared]

    def _merged(self, pixels: np.ndarray) -> Instances:
        merged = self._slicer(pixels)
        merged = merged[np.argsort(-merged.confidence, kind="stable")] if len(merged) else merged
        instances = Instances(pixels.shape[:2])
        instances.pred_boxes = Boxes(torch.from_numpy(merged.xyxy.astype(np.float32)))
        for name, values, kind in (
            ("scores", merged.confidence, np.float32),
            ("pred_classes", merged.class_id, np.int64),
        ):
            instances.set(name, torch.from_numpy(np.asarray([] if values is None else values, kind)))
        if merged.mask is not None:
            instances.pred_masks = torch.from_numpy(np.asarray(merged.mask, bool))
        return instances

    def _detect(self, tiles: list[np.ndarray]) -> list[Any]:
        found = []
        for outputs in predict_in_order(
            tiles, self._predictor.prepare_sized, self._predictor.predict, self._batch_size
        ):
            instances = outputs["instances"].to("cpu")
            kept = instances.scores >= self._threshold
            if len(instances):
                kept[instances.scores.argmax()] = True
            found.append(to_supervision(instances[kept]))
        return found
