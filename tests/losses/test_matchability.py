"""The IoU-aware classification loss, "mal", against its formula."""

import pytest
import torch
from model_helpers import default_cfg, make_predictions, make_targets
from torch import Tensor

from pair_detr.losses.build import build_class_scoring
from pair_detr.losses.classification import MatchabilityAware, SigmoidFocal
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.losses.terms import ClassTerm, MatchedPredictions
from pair_detr.structures import Assignment, Targets

CLASSES = 4


def example() -> tuple[Tensor, Assignment, Targets, Tensor]:
    """Two layers of two images with three queries; logits, matches, objects and how well their boxes fit."""
    targets = make_targets((2, 1), CLASSES)
    rows = [(0, 0, 1, 0), (0, 0, 2, 1), (0, 1, 0, 2), (1, 0, 0, 0), (1, 0, 1, 1), (1, 1, 2, 2)]
    quality = torch.tensor([0.9, 0.1, 0.0, 1.0, 0.5, 0.3])
    return torch.randn(2, 2, 3, CLASSES), Assignment(*torch.tensor(rows).T), targets, quality


def by_hand(logits: Tensor, rows: Assignment, targets: Targets, quality: Tensor, gamma: float) -> Tensor:
    """(L, B, Q, C): p ** gamma of negatives; cross entropy with q ** gamma of the others."""
    p = logits.sigmoid()
    loss = p**gamma * -(1 - p).log()
    for layer, image, query, target, q in zip(*(x.tolist() for x in (*vars(rows).values(), quality)), strict=True):
        where = layer, image, query, int(targets.labels[target])
        loss[where] = -(q**gamma) * p[where].log() - (1 - q**gamma) * (1 - p[where]).log()
    return loss


@pytest.mark.parametrize("gamma", [1.5, 1.0, 0.0])
def test_formula(gamma: float) -> None:
    logits, rows, targets, quality = example()
    scoring = MatchabilityAware(iou_gamma=gamma)
    found = scoring.loss(logits, rows, targets, torch.tensor(3.0), quality=quality)
    expected = by_hand(logits, rows, targets, quality, gamma).sum((1, 2, 3)) / 3
    torch.testing.assert_close(found, expected)


def test_weights_of_negatives_have_no_gradient() -> None:
    """It is that of the cross entropy times the weight."""
    logits, rows, targets, quality = example()
    logits.requires_grad_()
    MatchabilityAware().loss(logits, rows, targets, torch.tensor(1.0), quality=quality).sum().backward()
    with torch.no_grad():
        p = logits.sigmoid()
        expected = p**1.5 * p
        where = rows.layer, rows.image, rows.query, targets.labels[rows.target]
        expected[where] = p[where] - quality**1.5
    torch.testing.assert_close(logits.grad, expected)


def test_selected_classes() -> None:
    logits, rows, targets, quality = example()
    selected = torch.rand(CLASSES) < 0.5
    selected[targets.labels] = True
    selected[(targets.labels[0] + 1) % CLASSES] = False
    found = MatchabilityAware().loss(logits, rows, targets, torch.tensor(3.0), selected, quality)
    expected = (by_hand(logits, rows, targets, quality, 1.5) * selected).sum((1, 2, 3)) / 3
    torch.testing.assert_close(found, expected)


def test_all_else_is_focal() -> None:
    """The cost of a match, the start of the classifier, and how logits become detections."""
    cfg = default_cfg()
    cfg.MODEL.DETR.LOSS.CLASSIFICATION = "mal"
    cfg.MODEL.DETR.LOSS.IOU_GAMMA = 2.5
    found, focal = build_class_scoring(cfg, default="softmax"), SigmoidFocal()
    assert isinstance(found, MatchabilityAware)
    assert found.iou_gamma == 2.5
    assert found.uses_iou
    assert not focal.uses_iou
    logits, _, targets, _ = example()
    assert torch.equal(found.cost(logits, targets), focal.cost(logits, targets))
    assert found.prior_prob == focal.prior_prob
    assert found.num_logits(CLASSES) == CLASSES
    for a, b in zip(found.detections(logits[0], 5), focal.detections(logits[0], 5), strict=True):
        assert torch.equal(a, b)


class Fixed(FederatedLossSampler):
    """Always the classes that are given."""

    def __init__(self, selected: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.selected = selected

    def forward(self, labels: Tensor) -> Tensor:
        return self.selected


@pytest.mark.parametrize("federated", [False, True])
def test_the_quality_is_the_iou_of_matched_boxes(federated: bool) -> None:
    """Without a gradient to the boxes."""
    targets, predictions = make_targets((2, 1), CLASSES), make_predictions(2, 2, 5, CLASSES, requires_grad=True)
    matcher = HungarianMatcher(SigmoidFocal(), 2.0, 5.0, 2.0)
    rows = matcher(predictions.logits, predictions.boxes, targets)
    selected = torch.tensor([True, False, True, True]) if federated else torch.ones(CLASSES, dtype=torch.bool)
    term = ClassTerm(1.0, MatchabilityAware(), Fixed(selected) if federated else None)
    found = term(MatchedPredictions(predictions, targets, rows, torch.tensor(3.0), matcher))["class"]
    quality = []
    for layer, image, query, target in zip(*(x.tolist() for x in vars(rows).values()), strict=True):
        ax, ay, aw, ah = predictions.boxes[layer, image, query].tolist()
        bx, by, bw, bh = targets.boxes[target].tolist()
        overlap = 1.0
        for a, aw_, b, bw_ in ((ax, aw, bx, bw), (ay, ah, by, bh)):
            overlap *= max(0.0, min(a + aw_ / 2, b + bw_ / 2) - max(a - aw_ / 2, b - bw_ / 2))
        quality.append(overlap / (aw * ah + bw * bh - overlap))
    expected = by_hand(predictions.logits.detach(), rows, targets, torch.tensor(quality), 1.5) * selected
    torch.testing.assert_close(found, expected.sum((1, 2, 3)) / 3, atol=1e-5, rtol=1e-4)
    found.sum().backward()
    assert predictions.boxes.grad is None
