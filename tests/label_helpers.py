"""Three images with labels, predictions for them, and the criterion by config."""

import torch
import torch.nn.functional as F
from model_helpers import default_cfg, make_boxes
from torch import Tensor

from pair_detr.losses.classification import ClassScoring, SigmoidFocal
from pair_detr.losses.image_labels import Candidates, ImageLabelCriterion
from pair_detr.structures import Predictions, Targets

LAYERS, QUERIES, CLASSES = 3, 6, 4
# The labels of three images.
LABELS = [[2], [0, 3, 1], [1, 2]]
PAIRS = [(image, label) for image, labels in enumerate(LABELS) for label in labels]


def make_targets() -> Targets:
    return Targets.pack_image_labels([torch.tensor(labels) for labels in LABELS])


def make_predictions(columns: int = CLASSES) -> Predictions:
    images = len(LABELS)
    return Predictions(
        logits=torch.randn(LAYERS, images, QUERIES, columns).requires_grad_(),
        boxes=make_boxes(LAYERS, images, QUERIES).requires_grad_(),
        top_left=torch.rand(LAYERS, images, QUERIES, 2, requires_grad=True),
    )


def candidates_of(p: Predictions) -> Candidates:
    """As of sigmoids without objectness."""
    return Candidates(p.logits, p.logits, p.logits.amax(-1), p.boxes, p.top_left)


def bce(logits: Tensor, label: int) -> Tensor:
    """Of (C,) logits, class by class."""
    terms = [-F.logsigmoid(x) if c == label else -F.logsigmoid(-x) for c, x in enumerate(logits)]
    return torch.stack(terms).sum()


def criterion(
    name: str = "max_size", weight: float = 0.1, class_scoring: ClassScoring | None = None
) -> ImageLabelCriterion:
    cfg = default_cfg()
    cfg.MODEL.DETR.IMAGE_LABELS.LOSS, cfg.MODEL.DETR.IMAGE_LABELS.WEIGHT = name, weight
    return ImageLabelCriterion(cfg, class_scoring or SigmoidFocal())


def no_classifier(states: Tensor) -> Tensor:
    raise AssertionError("the logits are there")
