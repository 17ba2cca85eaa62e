"""From normalized boxes to Detectron2's instances."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from model_helpers import build, make_batch, tiny_cfg
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

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


def squares(*corners: float) -> Tensor:
    """Boxes of 10 x 10 pixels in an image of 100 x 100, in 0..1, with their left sides at these pixels."""
    return torch.tensor([[(x + 5) / 100, 0.5, 0.1, 0.1] for x in corners])


def test_duplicates_by_hand() -> None:
    """IoUs with a neighbor at a distance of 1, 2 and 5 pixels are 9/11, 8/12 and 5/15."""
    logits = torch.full((1, 1, 5, 2), -9.0)
    for query, (label, logit) in enumerate([(0, 4.0), (0, 3.0), (1, 2.0), (0, 1.0), (0, 0.0)]):
        logits[0, 0, query, label] = logit
    given = Predictions(logits, squares(20, 21, 20, 23, 60)[None, None])
    pixels = torch.full((1, 4), 100.0)

    def kept(threshold: float, allowed: Tensor | None = None) -> list[bool]:
        allowed = all_of(given) if allowed is None else allowed
        return detect(given, pixels, pixels, SigmoidFocal(), 5, allowed, threshold).kept[0].tolist()

    assert kept(1.0) == [True] * 5
    assert kept(0.82) == [True] * 5
    # The second is near the first; the third is of another class; the fourth is at 2 pixels of the second.
    assert kept(0.81) == [True, False, True, True, True]
    assert kept(0.6) == [True, False, True, False, True]
    # What is not to be detected suppresses nothing: the second is the best then. The last is a query's other class.
    allowed = all_of(given).clone()
    allowed[0, 0] = False
    assert kept(0.6, allowed) == [True, True, False, True, True]


@pytest.mark.parametrize("scoring", [SigmoidFocal(), Softmax()], ids=["focal", "softmax"])
def test_suppression_leaves_out_what_torchvision_does(scoring: ClassScoring) -> None:
    """What greedy suppression leaves out is left out; of the others, all that are near a better one."""
    boxes = torch.rand(1, 2, 30, 4) * 0.3 + torch.tensor([0.35, 0.35, 0.2, 0.2])
    given = Predictions(torch.randn(1, 2, 30, scoring.num_logits(3)), boxes)
    pixels = torch.tensor([[60.0, 40, 60, 40]] * 2)
    found = detect(given, pixels, pixels, scoring, 100, all_of(given), 0.5)
    for image in range(2):
        greedy = batched_nms(found.boxes[image], found.scores[image], found.labels[image], 0.5)
        kept = found.kept[image].nonzero()[:, 0]
        assert set(kept.tolist()) <= set(greedy.tolist())
        for one in set(greedy.tolist()) - set(kept.tolist()):
            better = (found.labels[image][:one] == found.labels[image][one]).nonzero()[:, 0]
            assert box_iou(found.boxes[image][better], found.boxes[image][one : one + 1]).max() > 0.5
        assert 5 < len(kept) < len(found.scores[image])


def test_the_threshold_is_that_of_the_config() -> None:
    cfg = tiny_cfg()
    cfg.TEST.NMS_THRESH = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    model = build(cfg).eval()
    inputs = make_batch([(64, 96)], [1])
    with torch.no_grad():
        instances = model(inputs)[0]["instances"]
        model.duplicate_iou = 1.0
        everything = model(inputs)[0]["instances"]
    assert 0 < len(instances) < len(everything)
    for label in range(3):
        boxes = instances.pred_boxes.tensor[instances.pred_classes == label]
        assert (box_iou(boxes, boxes).triu(1) == 0).all()
