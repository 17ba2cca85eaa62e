"""The matcher against explicit loops over layers, images, objects and queries."""

import math

import numpy as np
import pytest
import torch
from model_helpers import make_boxes, make_predictions, make_targets
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from pair_detr.losses.classification import ClassScoring, SigmoidFocal, Softmax
from pair_detr.losses.matcher import HungarianMatcher, NonFiniteCostError
from pair_detr.structures import Assignment, Targets

WEIGHTS = (2.0, 5.0, 2.0)
# Indices of layer, image, query and target.
Match = tuple[int, int, int, int]


def matches_of(assignment: Assignment) -> list[Match]:
    columns = (assignment.layer, assignment.image, assignment.query, assignment.target)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def class_cost(class_scoring: ClassScoring, logits: Tensor, label: int) -> float:
    """The formulas of Conditional DETR and DETR for one query, (C,)."""
    if isinstance(class_scoring, Softmax):
        return -math.exp(logits[label]) / sum(math.exp(x) for x in logits.tolist())
    p = 1 / (1 + math.exp(-logits[label]))
    alpha, gamma = class_scoring.alpha, class_scoring.gamma
    positive = -alpha * (1 - p) ** gamma * math.log(p + 1e-8)
    negative = -(1 - alpha) * p**gamma * math.log(1 - p + 1e-8)
    return positive - negative


def cost_matrix(
    class_scoring: ClassScoring, logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor
) -> np.ndarray:
    """(Q, T) cost of one image in one layer."""
    weight_class, weight_l1, weight_giou = WEIGHTS
    giou = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(wanted, "cxcywh", "xyxy"))
    matrix = np.zeros((len(boxes), len(wanted)))
    for q in range(len(boxes)):
        for t in range(len(wanted)):
            l1 = sum(abs(a - b) for a, b in zip(boxes[q].tolist(), wanted[t].tolist(), strict=True))
            matrix[q, t] = (
                weight_class * class_cost(class_scoring, logits[q], int(labels[t]))
                + weight_l1 * l1
                - weight_giou * float(giou[q, t])
            )
    return matrix


def expected_matches(class_scoring: ClassScoring, logits: Tensor, boxes: Tensor, targets: Targets) -> list[Match]:
    matches = []
    for layer in range(len(logits)):
        start = 0
        for image, count in enumerate(targets.counts):
            mine = slice(start, start + count)
            matrix = cost_matrix(
                class_scoring, logits[layer, image], boxes[layer, image], targets.labels[mine], targets.boxes[mine]
            )
            matches += [
                (layer, image, int(q), int(t) + start) for q, t in zip(*linear_sum_assignment(matrix), strict=True)
            ]
            start += count
    return matches


@pytest.mark.parametrize(
    "class_scoring", [SigmoidFocal(), SigmoidFocal(0.4, 1.5), Softmax()], ids=["focal", "other_focal", "softmax"]
)
@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 2], [9, 0, 12, 6], [6]])
def test_equals_scipy_on_each_image_and_layer(class_scoring: ClassScoring, counts: list[int]) -> None:
    queries, num_classes = 6, 4
    predictions = make_predictions(3, len(counts), queries, class_scoring.num_logits(num_classes))
    targets = make_targets(counts, num_classes)
    matcher = HungarianMatcher(class_scoring, *WEIGHTS)
    found = matches_of(matcher(predictions.logits, predictions.boxes, targets))
    assert sorted(found) == sorted(expected_matches(class_scoring, predictions.logits, predictions.boxes, targets))
    # More objects than queries: as many as there are queries are matched, all else is one-to-one.
    assert len(found) == 3 * sum(min(count, queries) for count in counts)
    assert len({match[:3] for match in found}) == len(found)
    assert len({(layer, target) for layer, _, _, target in found}) == len(found)


def test_batch_without_objects() -> None:
    predictions = make_predictions(2, 3, 5, 4)
    assignment = HungarianMatcher(SigmoidFocal(), *WEIGHTS)(
        predictions.logits, predictions.boxes, make_targets([0, 0, 0])
    )
    assert matches_of(assignment) == []
    assert assignment.pick(predictions.boxes).shape == (0, 4)


def test_other_images_of_the_batch_play_no_part() -> None:
    predictions, targets = make_predictions(2, 4, 6, 3), make_targets([2, 4, 0, 3])
    matcher = HungarianMatcher(SigmoidFocal(), *WEIGHTS)
    together = matches_of(matcher(predictions.logits, predictions.boxes, targets))
    start = 0
    for image, count in enumerate(targets.counts):
        mine = slice(start, start + count)
        alone = matcher(
            predictions.logits[:, [image]],
            predictions.boxes[:, [image]],
            Targets.pack([targets.boxes[mine]], [targets.labels[mine]]),
        )
        expected = [(layer, image, query, target + start) for layer, _, query, target in matches_of(alone)]
        assert sorted(match for match in together if match[1] == image) == sorted(expected)
        start += count


def test_prefers_the_box_that_is_right() -> None:
    targets = make_targets([3])
    boxes = make_boxes(1, 1, 5)
    boxes[0, 0, [4, 0, 2]] = targets.boxes
    assignment = HungarianMatcher(SigmoidFocal(), *WEIGHTS)(torch.zeros(1, 1, 5, 3), boxes, targets)
    assert sorted(matches_of(assignment)) == [(0, 0, 0, 1), (0, 0, 2, 2), (0, 0, 4, 0)]


def test_weights_reach_their_terms() -> None:
    predictions, targets = make_predictions(2, 2, 4, 3), make_targets([2, 1])
    one_by_one = [
        HungarianMatcher(SigmoidFocal(), *weights).pairwise_cost(predictions.logits, predictions.boxes, targets)
        for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    together = HungarianMatcher(SigmoidFocal(), 2, 3, 5).pairwise_cost(predictions.logits, predictions.boxes, targets)
    expected = 2 * one_by_one[0] + 3 * one_by_one[1] + 5 * one_by_one[2]
    torch.testing.assert_close(together, expected)
    assert together.shape == (2, 3, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("source", ["class logits", "predicted boxes", "ground-truth boxes"])
def test_non_finite_cost_names_layer_image_and_culprit(source: str, bad: float) -> None:
    predictions, targets = make_predictions(3, 4, 6, 3), make_targets([2, 0, 1, 3])
    layer, image = 1, 2
    if source == "class logits":
        # Infinite logits have a finite probability, as have infinite scores: NaN is the case that a training meets.
        predictions.logits[layer, image, 4] = math.nan
    elif source == "predicted boxes":
        predictions.boxes[layer, image, 4, 1] = bad
    else:
        layer = 0
        targets.boxes[2, 3] = bad
    with pytest.raises(NonFiniteCostError, match=rf"layer {layer}, image {image}\b.*{source}") as caught:
        HungarianMatcher(SigmoidFocal(), *WEIGHTS)(predictions.logits, predictions.boxes, targets)
    assert (caught.value.layer, caught.value.image, caught.value.source) == (layer, image, source)


@pytest.mark.parametrize("source", ["class logits", "predicted boxes"])
def test_non_finite_predictions_that_no_object_meets_are_found(source: str) -> None:
    predictions, targets = make_predictions(2, 2, 4, 3), make_targets([2, 0])
    tensor = predictions.logits if source == "class logits" else predictions.boxes
    tensor[1, 1, 3, 0] = math.nan
    with pytest.raises(NonFiniteCostError, match=f"layer 1, image 1 .*{source}"):
        HungarianMatcher(SigmoidFocal(), *WEIGHTS)(predictions.logits, predictions.boxes, targets)
    predictions = make_predictions(1, 1, 4, 3)
    targets = make_targets([2], num_classes=2)
    predictions.logits[0, 0, :, 2] = math.nan
    with pytest.raises(NonFiniteCostError, match=r"layer 0, image 0 .*class logits"):
        HungarianMatcher(SigmoidFocal(), *WEIGHTS)(predictions.logits, predictions.boxes, targets)


def test_half_precision_is_matched_as_fp32() -> None:
    predictions, targets = make_predictions(2, 2, 6, 3), make_targets([4, 2])
    logits, boxes = predictions.logits.bfloat16(), predictions.boxes
    matcher = HungarianMatcher(SigmoidFocal(), *WEIGHTS)
    assert matches_of(matcher(logits, boxes, targets)) == matches_of(matcher(logits.float(), boxes, targets))
    assert matcher.pairwise_cost(logits.float(), boxes, targets).dtype == torch.float32
