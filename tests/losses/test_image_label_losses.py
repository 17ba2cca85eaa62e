"""Losses of image labels, computed by hand and written out over layers and labels; and who gets a gradient."""

import math
from collections.abc import Callable
from dataclasses import replace

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
    candidates_of,
    criterion,
    make_predictions,
    make_targets,
    no_classifier,
)
from model_helpers import default_cfg
from torch import nn

from pair_detr.losses.classification import SigmoidFocal, Softmax
from pair_detr.losses.image_labels import IMAGE_LABEL_LOSSES, ImageLabelCriterion
from pair_detr.losses.objectness import ObjectnessScoring
from pair_detr.structures import ImageLabels, Predictions, Targets


def agreement(p: Predictions, layer: int, image: int, query: int) -> float:
    (x, y, w, h), corner = (values[layer, image, query].tolist() for values in (p.boxes, p.top_left))
    return -(abs(corner[0] - (x - w / 2)) + abs(corner[1] - (y - h / 2))) / (w + h)


# The key that the chosen query has most of, from predictions, number of the layer, image, query and label.
CHOICES: dict[str, Callable[[Predictions, int, int, int, int], float]] = {
    "max_size": lambda p, n, i, q, k: (p.boxes[n, i, q, 2] * p.boxes[n, i, q, 3]).item(),
    "max_score": lambda p, n, i, q, k: float(p.logits[n, i, q, k].sigmoid()),
    "first": lambda p, n, i, q, k: max(p.logits[n, i, q].sigmoid().tolist()),
    "min_loss": lambda p, n, i, q, k: -float(bce(p.logits[n, i, q], k)),
    "pair_score": lambda p, n, i, q, k: agreement(p, n, i, q),
    "objectness": lambda p, n, i, q, k: max(p.logits[n, i, q].sigmoid().tolist()) * math.exp(agreement(p, n, i, q)),
}


def chosen(name: str, predictions: Predictions) -> list[list[int]]:
    """Query by layer and label."""
    key = CHOICES[name]
    return [
        [max(range(QUERIES), key=lambda q: key(predictions, layer, image, q, label)) for image, label in PAIRS]
        for layer in range(LAYERS)
    ]


@pytest.mark.parametrize("name", CHOICES)
def test_loss_is_that_of_the_chosen_query(name: str) -> None:
    predictions, labels = make_predictions(), make_targets().image_labels
    losses = IMAGE_LABEL_LOSSES[name](candidates_of(predictions), labels)
    queries = chosen(name, predictions)
    expected = [
        [bce(predictions.logits[layer, image, query], label) for (image, label), query in zip(PAIRS, row, strict=True)]
        for layer, row in enumerate(queries)
    ]
    torch.testing.assert_close(losses, torch.tensor(expected))
    # Layers differ in their choice, or their independence would not be seen.
    assert queries[0] != queries[1]

    losses.sum().backward()
    has_gradient = {tuple(index) for index in predictions.logits.grad.abs().sum(-1).nonzero().tolist()}
    assert has_gradient == {
        (layer, image, query) for layer, row in enumerate(queries) for (image, _), query in zip(PAIRS, row, strict=True)
    }
    assert predictions.boxes.grad is None
    assert predictions.top_left.grad is None


def test_by_hand() -> None:
    """One layer, one image, two queries and two classes; the label is the second one."""
    predictions = Predictions(
        logits=torch.tensor([[[[1.0, -1.0], [0.5, 0.0]]]]), boxes=torch.tensor([[[[0.5] * 4, [0.2] * 4]]])
    )
    labels = ImageLabels.pack([torch.tensor([1])])

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    big, small = softplus(1.0) + softplus(1.0), softplus(0.5) + softplus(0.0)
    mean = softplus(0.75) + softplus(0.5)
    shares = [math.exp(1.0) / (math.exp(1.0) + math.exp(0.5)), math.exp(-1.0) / (math.exp(-1.0) + 1)]
    first = shares[0] / (1 + math.exp(-1.0)) + (1 - shares[0]) / (1 + math.exp(-0.5))
    second = shares[1] / (1 + math.exp(1.0)) + (1 - shares[1]) / 2
    # The other decoder is 0.15 off the corner of the big box and 0.08 off that of the small one: 0.15 and 0.2 of w + h.
    predictions.top_left = torch.tensor([[[[0.35, 0.3], [0.16, 0.12]]]])
    expected = {
        "pair_score": big,
        # 0.73 exp(-0.15) against 0.62 exp(-0.2).
        "objectness": big,
        # 0.27 exp(-0.15) against 0.5 exp(-0.2).
        "object_score": small,
        "max_size": big,
        "max_score": small,
        "first": big,
        "min_loss": small,
        "image": mean,
        "wsddn": -math.log(1 - first) - math.log(second),
    }
    for name, value in expected.items():
        assert IMAGE_LABEL_LOSSES[name](candidates_of(predictions), labels).tolist() == [
            [pytest.approx(value, abs=1e-5)]
        ], name


@pytest.mark.parametrize("name", ["image", "wsddn"])
def test_losses_of_all_queries(name: str) -> None:
    predictions, labels = make_predictions(), make_targets().image_labels
    losses = IMAGE_LABEL_LOSSES[name](candidates_of(predictions), labels)
    for layer in range(LAYERS):
        for n, (image, label) in enumerate(PAIRS):
            # Other labels of the same image do not change it.
            alone = ImageLabels.pack([torch.tensor([label])])
            one = Predictions(predictions.logits[layer, image][None, None], predictions.boxes[:1, :1])
            torch.testing.assert_close(losses[layer, n], IMAGE_LABEL_LOSSES[name](candidates_of(one), alone)[0, 0])
    losses.sum().backward()
    assert (predictions.logits.grad.abs().sum(-1) > 0).all()
    assert predictions.boxes.grad is None


@pytest.mark.parametrize("name", IMAGE_LABEL_LOSSES)
def test_classes_can_be_in_any_order(name: str) -> None:
    predictions, targets = make_predictions(), make_targets()
    order = torch.tensor([2, 0, 3, 1])
    permuted = replace(predictions, logits=predictions.logits[..., order])
    labels = targets.image_labels
    moved = ImageLabels(order.argsort()[labels.labels], labels.image_index, labels.counts)
    loss = IMAGE_LABEL_LOSSES[name]
    torch.testing.assert_close(loss(candidates_of(permuted), moved), loss(candidates_of(predictions), labels))


@pytest.mark.parametrize("name", IMAGE_LABEL_LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    predictions, targets = make_predictions(), make_targets()
    predictions.logits = (predictions.logits.detach() * 1e3).requires_grad_()
    loss = criterion(name)(predictions, targets, no_classifier)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(predictions.logits.grad).all()


@pytest.mark.parametrize("name", IMAGE_LABEL_LOSSES)
def test_means_over_labels_and_images_sum_over_layers(name: str) -> None:
    predictions, targets = make_predictions(), make_targets()
    by_label = IMAGE_LABEL_LOSSES[name](candidates_of(predictions), targets.image_labels)
    image_means = [by_label[:, 0], by_label[:, 1:4].mean(1), by_label[:, 4:].mean(1)]
    expected = 0.3 * sum(x.sum() for x in image_means) / 3
    torch.testing.assert_close(criterion(name, 0.3)(predictions, targets, no_classifier), expected)
    # The default is Detic's.
    torch.testing.assert_close(
        ImageLabelCriterion(default_cfg(), SigmoidFocal())(predictions, targets, no_classifier),
        criterion("max_size", 0.1)(predictions, targets, no_classifier),
    )


def test_batches_with_boxes_give_a_connected_zero() -> None:
    predictions = make_predictions()
    loss = criterion()(predictions, Targets.pack([torch.rand(1, 4)] * 3, [torch.zeros(1)] * 3), no_classifier)
    assert loss == 0
    loss.backward()
    assert predictions.logits.grad is not None
    assert not predictions.logits.grad.any()


@pytest.mark.parametrize("name", IMAGE_LABEL_LOSSES)
def test_the_classifier_alone(name: str) -> None:
    """The same loss, whose gradient ends at the states."""
    predictions, targets, head = make_predictions(), make_targets(), nn.Linear(8, CLASSES)
    predictions.states = torch.randn(LAYERS, len(LABELS), QUERIES, 8, requires_grad=True)
    predictions.logits = head(predictions.states)
    expected = criterion(name)(predictions, targets, no_classifier)
    cfg = default_cfg()
    cfg.MODEL.DETR.IMAGE_LABELS.LOSS, cfg.MODEL.DETR.IMAGE_LABELS.CLASSIFIER_ONLY = name, True
    loss = ImageLabelCriterion(cfg, SigmoidFocal())(predictions, targets, head)
    torch.testing.assert_close(loss, expected)
    loss.backward(retain_graph=True)
    found = head.weight.grad.clone()
    assert predictions.states.grad is None
    head.weight.grad = None
    expected.backward()
    torch.testing.assert_close(found, head.weight.grad)
    assert predictions.states.grad.any()


def test_softmax_is_read_as_one_binary_classifier_a_class() -> None:
    """The no-object column raises the loss, and is not a class that could be labeled."""
    predictions, targets = make_predictions(CLASSES + 1), make_targets()
    loss = criterion("max_size", 1.0, Softmax())(predictions, targets, no_classifier)
    probability = predictions.logits.softmax(-1)[..., :-1]
    expected = 0.0
    for layer, row in enumerate(chosen("max_size", predictions)):
        for (image, label), query in zip(PAIRS, row, strict=True):
            p = probability[layer, image, query]
            one_hot = F.one_hot(torch.tensor(label), CLASSES).float()
            expected += F.binary_cross_entropy(p, one_hot, reduction="sum") / len(LABELS[image]) / len(LABELS)
    torch.testing.assert_close(loss, expected)


def test_binary_logits() -> None:
    logits = torch.randn(2, 3, 5) * 3
    assert torch.equal(SigmoidFocal().binary_logits(logits), logits)
    odds = Softmax().binary_logits(logits)
    torch.testing.assert_close(odds, logits.softmax(-1)[..., :4].logit(), atol=1e-4, rtol=1e-4)
    assert torch.isfinite(Softmax().binary_logits(torch.tensor([1e3, 0.0, -1e3]))).all()


def test_fp32_under_autocast() -> None:
    predictions, targets = make_predictions(), make_targets()
    expected = criterion()(predictions, targets, no_classifier)
    predictions.logits = predictions.logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion()(predictions, targets, no_classifier)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"IMAGE_LABELS.LOSS": "largest"}, r"IMAGE_LABELS\.LOSS is 'largest'; choose one of max_size, max_score"),
        ({"IMAGE_LABELS.WEIGHT": float("nan")}, r"IMAGE_LABELS\.WEIGHT is nan; a weight must be 0 or more"),
        ({"IMAGE_LABELS.WEIGHT": -1.0}, r"IMAGE_LABELS\.WEIGHT is -1\.0; a weight must be 0 or more"),
        ({"IMAGE_LABELS.LOSS": "pair_score", "VARIANT": "detr"}, "pair_score.*two decoders.*'detr'.*max_size"),
        ({"IMAGE_LABELS.LOSS": "pair_score", "PAIR.BOX_DECODING": "pair"}, "pair_score.*BOX_DECODING to center"),
    ],
)
def test_bad_values_name_the_key(options: dict[str, object], message: str) -> None:
    cfg = default_cfg()
    for key, value in options.items():
        cfg.merge_from_list([f"MODEL.DETR.{key}", value])
    with pytest.raises(ValueError, match=message):
        ImageLabelCriterion(cfg, SigmoidFocal())


@pytest.mark.parametrize("name", ["image", "wsddn"])
def test_labels_of_all_queries_do_not_fit_objectness(name: str) -> None:
    cfg = default_cfg()
    cfg.MODEL.DETR.IMAGE_LABELS.LOSS = name
    with pytest.raises(ValueError, match=f"{name}.*MODEL.CLIP.OBJECTNESS.*for example objectness"):
        ImageLabelCriterion(cfg, ObjectnessScoring(SigmoidFocal()))


def test_the_chosen_query_learns_its_class_alone() -> None:
    """It is chosen by the product of both factors."""
    torch.manual_seed(0)
    predictions, targets = make_predictions(CLASSES + 1), make_targets()
    scoring = ObjectnessScoring(SigmoidFocal())
    criterion("max_score", weight=1.0, class_scoring=scoring)(predictions, targets, no_classifier).backward()
    logits = predictions.logits.detach()
    product = logits[..., :-1].sigmoid() * logits[..., -1:].sigmoid()
    chosen = {
        (layer, image, int(product[layer, image, :, label].argmax()))
        for layer in range(LAYERS)
        for image, label in PAIRS
    }
    grad = predictions.logits.grad
    assert {tuple(index) for index in grad.abs().sum(-1).nonzero().tolist()} == chosen
    assert not grad[..., -1].any()
    assert all(grad[index][:-1].all() for index in chosen)
