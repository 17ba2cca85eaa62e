"""From normalized boxes to Detectron2's instances."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from pair_detr.losses.classification import ClassScoring, SigmoidFocal, Softmax
from pair_detr.modeling.postprocessing.boxes import detect, finite_queries
from pair_detr.structures import Batch, Predictions

IMAGES, OUTPUTS = [(40, 60), (30, 20)], [(80, 90), (30, 20)]


def batch(spans_padding: bool = False) -> Batch:
    return Batch(torch.zeros(2, 3, 40, 60), None, IMAGES, OUTPUTS, spans_padding)


def frames_and_limits() -> tuple[Tensor, Tensor]:
    return batch().output_frames(), batch().output_limits()


def all_of(predictions: Predictions) -> Tensor:
    return torch.ones(predictions.logits.shape[1:3], dtype=torch.bool)[..., None]


def predictions(scoring: ClassScoring) -> Predictions:
    boxes = torch.rand(1, 2, 50, 4) * 1.5 - 0.2
    return Predictions(torch.randn(1, 2, 50, scoring.num_logits(3)), boxes)


@pytest.mark.parametrize("scoring", [SigmoidFocal(), Softmax()], ids=["focal", "softmax"])
def test_boxes_are_clipped_and_dropped_as_by_detectron2(scoring: ClassScoring) -> None:
    """Detectron2 scales, clips and drops boxes in pixels of the image; here they have those of the output at once."""
    given = predictions(scoring)
    found = detect(given, *frames_and_limits(), scoring, 100, all_of(given))
    for image, instances in enumerate(found.instances(OUTPUTS)):
        height, width = IMAGES[image]
        x, y, w, h = (given.boxes[0, image, found.queries[image]] * torch.tensor([width, height] * 2)).unbind(1)
        corners = Boxes(torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1))
        raw = Instances((height, width), pred_boxes=corners, scores=found.scores[image], query=found.queries[image])
        expected = detector_postprocess(raw, *OUTPUTS[image])
        kept = instances[found.kept[image]]
        assert 0 < len(kept) < len(found.scores[image])
        assert torch.equal(found.queries[image][found.kept[image]], expected.query)
        torch.testing.assert_close(kept.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-4, rtol=1e-5)


def test_frames_of_boxes() -> None:
    """By hand: the second image fills half of the height and a third of the width of the padded one."""
    assert batch().padded_size == (40, 60)
    assert batch().output_frames().tolist() == [[90, 80, 90, 80], [20, 30, 20, 30]]
    assert batch(spans_padding=True).frame_sizes == [(40, 60)] * 2
    assert batch(spans_padding=True).output_frames().tolist() == [[90, 80, 90, 80], [60, 40, 60, 40]]


def test_classes_and_queries_that_are_not_allowed_are_left_out() -> None:
    scoring = SigmoidFocal()
    given = Predictions(torch.randn(1, 2, 4, 3), torch.full((1, 2, 4, 4), 0.5))
    allowed = torch.ones(2, 4, 3, dtype=torch.bool)
    allowed[0, 1], allowed[1, :, 2] = False, False
    found = detect(given, *frames_and_limits(), scoring, 12, allowed)
    pairs = [set(map(tuple, torch.stack((found.queries, found.labels), -1)[i][found.kept[i]].tolist())) for i in (0, 1)]
    assert pairs[0] == {(query, label) for query in (0, 2, 3) for label in range(3)}
    assert pairs[1] == {(query, label) for query in range(4) for label in range(2)}


def test_finite_queries() -> None:
    given = Predictions(torch.zeros(2, 1, 4, 3), torch.zeros(2, 1, 4, 4))
    given.logits[-1, 0, 1, 2] = torch.nan
    given.boxes[-1, 0, 3, 0] = torch.inf
    given.boxes[0] = torch.nan
    assert finite_queries(given).tolist() == [[True, False, True, False]]
