"""Labels of images that may show known objects, and what they teach of objectness."""

import pytest
import torch
import torch.nn.functional as F
from label_helpers import (
    CLASSES,
    LABELS,
    LAYERS,
    PAIRS,
    QUERIES,
    bce,
    criterion,
    make_predictions,
    make_targets,
    no_classifier,
)
from model_helpers import default_cfg
from torch import nn

from pair_detr.losses.classification import SigmoidFocal
from pair_detr.losses.image_labels import ImageLabelCriterion
from pair_detr.losses.objectness import ObjectnessScoring
from pair_detr.structures import Predictions, Targets


def test_labels_can_teach_objectness() -> None:
    """Of the largest box, by the classifier alone: the states get no gradient from it."""
    torch.manual_seed(0)
    predictions, targets, head = make_predictions(), make_targets(), nn.Linear(8, CLASSES + 1)
    predictions.states = torch.randn(LAYERS, len(LABELS), QUERIES, 8, requires_grad=True)
    predictions.logits = head(predictions.states)
    losses, state_gradients, head_gradients = [], [], []
    for teaches in (False, True):
        cfg = default_cfg()
        cfg.MODEL.DETR.IMAGE_LABELS.LOSS, cfg.MODEL.DETR.IMAGE_LABELS.OBJECTNESS = "max_size", teaches
        cfg.MODEL.DETR.IMAGE_LABELS.WEIGHT = 1.0
        loss = ImageLabelCriterion(cfg, ObjectnessScoring(SigmoidFocal()))(predictions, targets, head)
        gradients = torch.autograd.grad(loss, (predictions.states, head.weight), retain_graph=True)
        losses.append(loss)
        state_gradients.append(gradients[0])
        head_gradients.append(gradients[1])
    assert torch.equal(*state_gradients)
    assert torch.equal(head_gradients[0][:-1], head_gradients[1][:-1])
    assert not head_gradients[0][-1].any()
    assert head_gradients[1][-1].any()
    # The mean over the labels of an image and over the images, the sum over the layers.
    area = predictions.boxes[..., 2] * predictions.boxes[..., 3]
    odds = predictions.logits[..., -1]
    expected = sum(
        F.softplus(-odds[layer, image, area[layer, image].argmax()]) / len(LABELS[image]) / len(LABELS)
        for image, _ in PAIRS
        for layer in range(LAYERS)
    )
    torch.testing.assert_close(losses[1] - losses[0], expected)


@pytest.mark.parametrize(
    ("loss", "has_objectness", "message"),
    [
        ("max_size", False, r"OBJECTNESS is True, but without MODEL\.CLIP\.OBJECTNESS"),
        ("max_score", True, r"'max_score' chooses by scores.*Set LOSS to max_size, or OBJECTNESS to False"),
        ("objectness", True, "'objectness' chooses by scores"),
    ],
)
def test_what_teaching_objectness_needs(loss: str, has_objectness: bool, message: str) -> None:
    cfg = default_cfg()
    cfg.MODEL.DETR.IMAGE_LABELS.LOSS, cfg.MODEL.DETR.IMAGE_LABELS.OBJECTNESS = loss, True
    scoring = ObjectnessScoring(SigmoidFocal()) if has_objectness else SigmoidFocal()
    with pytest.raises(ValueError, match=message):
        ImageLabelCriterion(cfg, scoring)


def test_labels_go_to_what_no_known_object_explains() -> None:
    """One image with three boxes, the largest of which is an object of another class, and one with nothing else."""
    boxes = torch.tensor([[0.3, 0.3, 0.6, 0.6], [0.8, 0.8, 0.3, 0.3], [0.8, 0.2, 0.1, 0.1]]).expand(1, 2, 3, 4)
    logits = torch.randn(1, 2, 3, CLASSES)
    targets = Targets.pack_image_labels([torch.tensor([1]), torch.tensor([2])])
    known = torch.tensor([[0.3, 0.3, 0.5, 0.6]]), torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    targets.image_labels.known = Targets.pack(list(known), [torch.tensor([0]), torch.tensor([0])])
    targets = targets.to(torch.device("cpu"))
    loss = criterion(weight=1.0)(Predictions(logits, boxes), targets, no_classifier)
    # All boxes of the second image are parts of an object; the label says that there is another.
    expected = (bce(logits[0, 0, 1], 1) + bce(logits[0, 1, 0], 2)) / 2
    torch.testing.assert_close(loss, expected)
    # Of two groups of queries the first counts.
    doubled = Predictions(logits.repeat_interleave(2, 1), boxes.repeat_interleave(2, 1), groups=2)
    torch.testing.assert_close(criterion(weight=1.0)(doubled, targets, no_classifier), expected)


@pytest.mark.parametrize("name", ["max_score", "first"])
def test_scores_tell_a_tie_from_the_person_who_wears_it(name: str) -> None:
    """A known object covers the query that is of the label for sure."""
    boxes = torch.tensor([[0.5, 0.5, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]])[None, None]
    logits = torch.tensor([[5.0, -5.0, -5.0], [-4.0, -4.0, -4.0]])[None, None]
    targets = Targets.pack_image_labels([torch.tensor([0])])
    targets.image_labels.known = Targets.pack([torch.tensor([[0.5, 0.5, 0.6, 0.6]])], [torch.tensor([1])])
    loss = criterion(name, weight=1.0)(Predictions(logits, boxes), targets, no_classifier)
    torch.testing.assert_close(loss, bce(logits[0, 0, 0], 0))
