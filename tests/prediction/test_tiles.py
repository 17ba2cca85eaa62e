"""Detection in tiles, by predictors whose detections are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from prediction_helpers import make_instances

from pair_detr.prediction.tiles import TiledPredictor

pytest.importorskip("supervision")
# An image of 100 x 200 pixels with an object in each corner and one in the middle: x1, y1, x2, y2 and its class.
OBJECTS = [(2, 2, 12, 12, 0), (180, 4, 195, 14, 1), (5, 85, 15, 98, 1), (185, 80, 198, 97, 0), (95, 45, 105, 55, 2)]


class BrightPixels:
    """Finds rectangles by their gray, which says the class; those that are cut off it finds, too."""

    metadata = Metadata(name="tiles", thing_classes=["a", "b", "c"])
    category_ids = None

    def __init__(self, masks: bool = False, score: float = 0.9) -> None:
        self.sizes: list[int] = []
        self.masks = masks
        self.score = score

    def prepare_sized(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        return image, image.shape[:2]

    def predict(self, prepared: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        self.sizes.append(len(prepared))
        return [{"instances": self._find(image[..., 0])} for image in prepared]

    def _find(self, gray: np.ndarray) -> Any:
        boxes, classes, masks = [], [], []
        for label in range(3):
            mask = gray == 50 * (label + 1)
            if mask.any():
                y, x = np.nonzero(mask)
                boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
                classes.append(label)
                masks.append(mask)
        # What is seen in part has a lower score.
        scores = [self.score * min(1, (b[2] - b[0]) * (b[3] - b[1]) / 100) for b in boxes]
        instances = make_instances(gray.shape, boxes or torch.zeros(0, 4).tolist(), classes, scores)
        if self.masks:
            instances.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *gray.shape))
        return instances


def picture() -> np.ndarray:
    image = np.zeros((100, 200, 3), np.uint8)
    for x1, y1, x2, y2, label in OBJECTS:
        image[y1:y2, x1:x2] = 50 * (label + 1)
    return image


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_objects_of_all_tiles_are_found_once_and_where_they_are(batch_size: int, masks: bool) -> None:
    inner = BrightPixels(masks)
    predictor = TiledPredictor(inner, 60, 0.25, batch_size, threshold=0.1)
    prepared, size = predictor.prepare_sized(picture())
    (outputs,) = predictor.predict([prepared])
    found = outputs["instances"]
    assert (size, found.image_size) == ((100, 200), (100, 200))
    table = {
        (*box, label) for box, label in zip(found.pred_boxes.tensor.tolist(), found.pred_classes.tolist(), strict=True)
    }
    assert table == set(OBJECTS)
    assert len(found) == len(OBJECTS)
    assert (found.scores[1:] <= found.scores[:-1]).all()
    assert max(inner.sizes) <= batch_size
    # 2 rows and 5 columns of tiles, each 45 pixels after the other but for the last.
    assert sum(inner.sizes) == 2 * 5
    if masks:
        for mask, (x1, y1, x2, y2) in zip(found.pred_masks, found.pred_boxes.tensor.int().tolist(), strict=True):
            assert mask.sum() == (x2 - x1) * (y2 - y1)
            assert mask[y1:y2, x1:x2].all()


def test_below_the_threshold_the_best_of_a_tile_is_kept() -> None:
    (outputs,) = TiledPredictor(BrightPixels(score=0.3), 60, 0.25, threshold=0.5).predict([picture()])
    assert 0 < len(outputs["instances"]) <= 10
    assert float(outputs["instances"].scores[0]) == pytest.approx(0.3)


def test_an_image_without_objects() -> None:
    (outputs,) = TiledPredictor(BrightPixels(), 60).predict([np.zeros((30, 70, 3), np.uint8)])
    assert len(outputs["instances"]) == 0
    assert outputs["instances"].pred_boxes.tensor.shape == (0, 4)


def test_panoptic_models_are_refused() -> None:
    inner = BrightPixels()
    inner.metadata = Metadata(name="panoptic", thing_classes=["a"], stuff_classes=["sky"])
    with pytest.raises(ValueError, match="leave out --tile"):
        TiledPredictor(inner, 60)
