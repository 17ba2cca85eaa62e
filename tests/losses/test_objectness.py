"""Scores in two factors: values by hand, and who gets a gradient from what."""

import pytest
import torch
import torch.nn.functional as F
from model_helpers import default_cfg, make_targets
from torchvision.ops import box_convert, sigmoid_focal_loss

from pair_detr.losses.build import build_class_scoring
from pair_detr.losses.classification import MatchabilityAware, SigmoidFocal, Softmax
from pair_detr.losses.objectness import ObjectnessScoring
from pair_detr.losses.terms import unannotated_objects
from pair_detr.structures import Assignment, Targets

LAYERS, QUERIES, CLASSES = 2, 5, 3


def scoring() -> ObjectnessScoring:
    return ObjectnessScoring(SigmoidFocal())


def one_match_per_layer(targets: Targets) -> Assignment:
    """Query 0 of the first layer, and 3 of the second, has the object of the only image."""
    zeros = torch.zeros(LAYERS, dtype=torch.int64)
    return Assignment(torch.arange(LAYERS), zeros, torch.tensor([0, 3]), zeros)


def test_scores_are_products() -> None:
    logits = torch.tensor([[[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]])
    product = logits[..., :2].sigmoid() * logits[..., 2:].sigmoid()
    own = scoring()
    torch.testing.assert_close(own.probabilities(logits), product)
    torch.testing.assert_close(own.binary_logits(logits).sigmoid(), product)
    assert own.objectness(logits).tolist() == [[0.5, -1.0]]
    assert own.class_logits(logits).tolist() == [[[1.0, -2.0], [0.0, 3.0]]]
    scores, labels, queries = own.detections(logits, 3)
    order = product.flatten().argsort(descending=True)[:3]
    torch.testing.assert_close(scores[0], product.flatten()[order])
    assert (queries[0] * 2 + labels[0]).tolist() == order.tolist()


@pytest.mark.parametrize("value", [-1e4, -100.0, 100.0, 1e4])
def test_extreme_logits_stay_finite(value: float) -> None:
    logits = torch.full((1, 1, QUERIES, CLASSES + 1), value, requires_grad=True)
    targets = make_targets([1])
    own, assignment = scoring(), one_match_per_layer(targets)
    both = logits.expand(LAYERS, -1, -1, -1)
    loss = own.loss(both, assignment, targets, torch.ones(())).sum() + own.binary_logits(both).sum()
    loss.backward()
    assert own.cost(both, targets).isfinite().all()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["focal", "mal"])
def test_classes_learn_from_objects_alone(name: str) -> None:
    torch.manual_seed(0)
    inner = SigmoidFocal() if name == "focal" else MatchabilityAware()
    own, targets = ObjectnessScoring(inner), make_targets([1])
    logits = torch.randn(LAYERS, 1, QUERIES, CLASSES + 1, requires_grad=True)
    quality = torch.tensor([0.9, 0.4])
    own.loss(logits, one_match_per_layer(targets), targets, torch.ones(()), quality=quality).sum().backward()
    moved = logits.grad[..., :CLASSES].abs().sum(-1)[:, 0] > 0
    assert moved.nonzero().tolist() == [[0, 0], [1, 3]]
    # Objectness is learned from all queries.
    assert (logits.grad[..., -1] != 0).all()


def test_loss_by_hand() -> None:
    torch.manual_seed(0)
    targets = make_targets([1])
    targets.labels[0] = 1
    logits = torch.randn(LAYERS, 1, QUERIES, CLASSES + 1)
    found = scoring().loss(logits, one_match_per_layer(targets), targets, torch.tensor(2.0))
    for layer, query in ((0, 0), (1, 3)):
        is_object = F.one_hot(torch.tensor(query), QUERIES).float()
        of_objects = sigmoid_focal_loss(logits[layer, 0, :, -1], is_object, 0.25, 2.0).sum()
        is_class = torch.tensor([0.0, 1.0, 0.0])
        of_class = sigmoid_focal_loss(logits[layer, 0, query, :CLASSES], is_class, 0.25, 2.0).sum()
        torch.testing.assert_close(found[layer], (of_objects + of_class) / 2)


def test_iou_is_a_matter_of_objectness() -> None:
    targets = make_targets([1])
    logits = torch.zeros(LAYERS, 1, QUERIES, CLASSES + 1, requires_grad=True)
    own = ObjectnessScoring(MatchabilityAware())
    grads = []
    for quality in (1.0, 0.3):
        loss = own.loss(
            logits, one_match_per_layer(targets), targets, torch.ones(()), quality=torch.full((LAYERS,), quality)
        )
        grads.append(torch.autograd.grad(loss.sum(), logits)[0])
    assert torch.equal(grads[0][..., :-1], grads[1][..., :-1])
    assert (grads[0][0, 0, 0, -1] < grads[1][0, 0, 0, -1]).item()


def test_classes_that_do_not_take_part() -> None:
    """A class that is left out gets no gradient; objectness of a query that is left out for all classes neither."""
    targets = make_targets([1])
    targets.labels[0] = 0
    logits = torch.randn(LAYERS, 1, QUERIES, CLASSES + 1, requires_grad=True)
    selected = torch.ones(1, 1, QUERIES, CLASSES, dtype=torch.bool)
    selected[..., 2] = False
    selected[:, :, 4] = False
    scoring().loss(logits, one_match_per_layer(targets), targets, torch.ones(()), selected).sum().backward()
    assert not logits.grad[..., 2].any()
    assert not logits.grad[:, :, 4].any()
    assert logits.grad[:, 0, :4, -1].all()


def test_cost_is_that_of_the_product() -> None:
    targets = make_targets([2, 1])
    logits = torch.randn(LAYERS, 2, QUERIES, CLASSES + 1)
    product = (logits[..., :-1].sigmoid() * logits[..., -1:].sigmoid()).logit()
    torch.testing.assert_close(scoring().cost(logits, targets), SigmoidFocal().cost(product, targets))


def test_choice_by_config() -> None:
    cfg = default_cfg()
    cfg.MODEL.CLIP.OBJECTNESS = True
    assert type(build_class_scoring(cfg, "focal")) is SigmoidFocal
    assert isinstance(build_class_scoring(cfg, "focal", has_texts=True), ObjectnessScoring)
    assert type(build_class_scoring(cfg, "softmax", has_texts=True)) is Softmax


def test_unannotated_objects() -> None:
    """In units of a 10 x 10 image: an object of 4 x 4 at the top left, another of 2 x 4 beside it."""
    objects = torch.tensor([[0.0, 0, 4, 4], [4, 0, 6, 4]]) / 10
    candidates = torch.tensor(
        [
            [0.0, 0, 4, 4],  # the object itself
            [1, 1, 3, 3],  # a part of it
            [0, 0, 6, 4],  # both
            [0, 0, 6, 9],  # 24 of 54
            [3, 3, 9, 9],  # 1 and 2 of 36
            [6, 5, 9, 9],  # none of it
        ]
    )
    targets = Targets.pack(
        [box_convert(objects, "xyxy", "cxcywh"), torch.zeros(0, 4)], [torch.zeros(2), torch.zeros(0)]
    )
    boxes = box_convert(candidates / 10, "xyxy", "cxcywh").expand(LAYERS, 2, -1, -1)
    confident = torch.full((LAYERS, 2, 6), 0.5)
    found = unannotated_objects(confident, boxes, targets, 0.6)
    assert found[:, 0].tolist() == [[False, False, False, True, True, True]] * LAYERS
    # Nothing is annotated in the second image.
    assert found[:, 1].all()
    assert not unannotated_objects(confident - 0.2, boxes, targets, 0.6).any()


def test_objects_without_a_known_class_teach_objectness_alone() -> None:
    """Two images with an object each; the class of the first one's is not known."""
    torch.manual_seed(0)
    targets = make_targets([1, 1])
    targets.classified = torch.tensor([False, True])
    index = torch.tensor([0, 1])
    matches = Assignment(torch.zeros_like(index), index, torch.tensor([2, 4]), index)
    logits = torch.randn(1, 2, QUERIES, CLASSES + 1, requires_grad=True)
    loss = scoring().loss(logits, matches, targets, torch.ones(()))
    loss.sum().backward()
    moved = logits.grad[0, :, :, :CLASSES].abs().sum(-1) > 0
    assert moved.nonzero().tolist() == [[1, 4]]
    is_object = torch.zeros(2, QUERIES)
    is_object[index, matches.query] = 1.0
    expected = sigmoid_focal_loss(logits[0, ..., -1], is_object, 0.25, 2.0).sum()
    is_class = F.one_hot(targets.labels[1], CLASSES).float()
    expected = expected + sigmoid_focal_loss(logits[0, 1, 4, :CLASSES], is_class, 0.25, 2.0).sum()
    torch.testing.assert_close(loss, expected[None])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_power_of_objectness(power: float) -> None:
    """In what is detected alone: choices of labels, costs and losses are of the product."""
    logits = torch.randn(2, QUERIES, CLASSES + 1)
    own = ObjectnessScoring(SigmoidFocal(), power)
    expected = logits[..., :-1].sigmoid() * logits[..., -1:].sigmoid() ** power
    torch.testing.assert_close(own.probabilities(logits), expected)
    torch.testing.assert_close(own.detections(logits, 2)[0], expected.flatten(1).topk(2).values)
    torch.testing.assert_close(own.binary_logits(logits), scoring().binary_logits(logits))


def test_power_by_config() -> None:
    cfg = default_cfg()
    cfg.MODEL.CLIP.OBJECTNESS, cfg.TEST.OBJECTNESS_POWER = True, 0.25
    assert build_class_scoring(cfg, "focal", has_texts=True).power == 0.25
