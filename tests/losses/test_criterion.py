"""The criteria against sums written out over layers, images and matches."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from model_helpers import build, default_cfg, make_predictions, make_targets, tiny_cfg
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from pair_detr.losses.classification import SigmoidFocal, Softmax
from pair_detr.losses.contrastive import nt_xent, symmetric_cross_entropy
from pair_detr.losses.criterion import SetCriterion
from pair_detr.losses.terms import LossTerm, MatchedPredictions
from pair_detr.structures import Assignment, Predictions, Targets

LAYERS, QUERIES, CLASSES = 3, 6, 3
COUNTS = [3, 0, 2]
TERMS = ("class", "box", "giou")


def predictions_for(
    images: int = len(COUNTS), pair: bool = False, layers: int = LAYERS, contrastive: int = 1
) -> Predictions:
    predictions = make_predictions(layers, images, QUERIES, CLASSES, requires_grad=True)
    if pair:
        predictions.top_left = torch.rand(layers, images, QUERIES, 2, requires_grad=True)
        predictions.pair_embeddings = tuple(
            torch.randn(contrastive, images, QUERIES, 8, requires_grad=True) for _ in range(2)
        )
    return predictions


def pair_criterion(**pair: object) -> SetCriterion:
    cfg = default_cfg()
    for key, value in pair.items():
        cfg.MODEL.DETR.PAIR[key] = value
    return SetCriterion(cfg, SigmoidFocal())


def plain_cfg() -> CfgNode:
    cfg = default_cfg()
    cfg.MODEL.DETR.VARIANT = "conditional_detr"
    return cfg


def weights_of(criterion: SetCriterion) -> dict[str, float]:
    return {name: weight for term in criterion.terms for name, weight in term.weights.items()}


def expected_terms(criterion: SetCriterion, predictions: Predictions, targets: Targets) -> dict[str, list[Tensor]]:
    """Unweighted terms by layer. The matching, which has tests of its own, is taken from the criterion."""
    assignment = criterion.matcher(predictions.logits, predictions.boxes, targets)
    num_boxes = max(sum(targets.counts), 1)
    terms: dict[str, list[Tensor]] = {name: [] for name in (*TERMS, "top_left")}
    for layer in range(len(predictions.boxes)):
        one_hot = torch.zeros(predictions.logits.shape[1:])
        box, giou, top_left = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for i in (assignment.layer == layer).nonzero().flatten().tolist():
            image, query, target = (int(x[i]) for x in (assignment.image, assignment.query, assignment.target))
            one_hot[image, query, targets.labels[target]] = 1
            found, wanted = predictions.boxes[layer, image, query], targets.boxes[target]
            box = box + (found - wanted).abs().sum()
            corners = [box_convert(x[None], "cxcywh", "xyxy") for x in (found, wanted)]
            giou = giou + 1 - generalized_box_iou(*corners)[0, 0]
            if predictions.top_left is not None:
                top_left = top_left + (predictions.top_left[layer, image, query] - corners[1][0, :2]).abs().sum()
        focal = sigmoid_focal_loss(predictions.logits[layer], one_hot, 0.25, 2.0, reduction="sum")
        for name, value in zip((*TERMS, "top_left"), (focal, box, giou, top_left), strict=True):
            terms[name].append(value / num_boxes)
    return terms


def test_set_criterion_equals_sums() -> None:
    criterion = SetCriterion(plain_cfg(), SigmoidFocal())
    predictions, targets = predictions_for(), make_targets(COUNTS)
    losses = criterion(predictions, targets)
    expected = expected_terms(criterion, predictions, targets)
    for name, weight in zip(TERMS, (2.0, 5.0, 2.0), strict=True):
        torch.testing.assert_close(losses[f"loss_{name}"], weight * expected[name][-1])
        torch.testing.assert_close(losses[f"loss_{name}_aux"], weight * sum(expected[name][:-1]))
    assert set(losses) == {f"loss_{name}{suffix}" for name in TERMS for suffix in ("", "_aux")}


@pytest.mark.parametrize(("form", "loss"), [("nt_xent", nt_xent), ("cross", symmetric_cross_entropy)])
@pytest.mark.parametrize("contrastive_layers", [1, LAYERS])
def test_pair_criterion_equals_sums(
    form: str, loss: Callable[[Tensor, Tensor, float], Tensor], contrastive_layers: int
) -> None:
    criterion = pair_criterion(CONTRASTIVE_LOSS=form, TOP_LEFT_WEIGHT=3.0, CONTRASTIVE_WEIGHT=0.5, TEMPERATURE=0.2)
    predictions, targets = predictions_for(pair=True, contrastive=contrastive_layers), make_targets(COUNTS)
    losses = criterion(predictions, targets)
    expected = expected_terms(criterion, predictions, targets)
    torch.testing.assert_close(losses["loss_top_left"], 3 * expected["top_left"][-1])
    torch.testing.assert_close(losses["loss_top_left_aux"], 3 * sum(expected["top_left"][:-1]))
    # The association is averaged over all images, including those without objects.
    by_layer = [
        sum(loss(a[image], b[image], 0.2) for image in range(len(COUNTS))) / len(COUNTS)
        for a, b in zip(*predictions.pair_embeddings, strict=True)
    ]
    torch.testing.assert_close(losses["loss_pair"], 0.5 * by_layer[-1])
    assert ("loss_pair_aux" in losses) == (contrastive_layers > 1)
    if contrastive_layers > 1:
        torch.testing.assert_close(losses["loss_pair_aux"], 0.5 * sum(by_layer[:-1]))
    # The terms that it shares with the others do not change.
    plain = SetCriterion(plain_cfg(), SigmoidFocal())(predictions, targets)
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value)


def test_pair_criterion_without_association_term() -> None:
    losses = pair_criterion(CONTRASTIVE_WEIGHT=0.0)(predictions_for(pair=True), make_targets(COUNTS))
    assert not any("pair" in name for name in losses)
    assert "loss_top_left" in losses


def test_top_left_target_is_the_corner_of_the_matched_box() -> None:
    criterion = pair_criterion()
    predictions, targets = predictions_for(images=1, pair=True, layers=1), make_targets([1])
    query = criterion.matcher(predictions.logits, predictions.boxes, targets).query
    corner = targets.boxes[0, :2] - targets.boxes[0, 2:] / 2
    predictions.top_left = predictions.top_left.detach().clone()
    predictions.top_left[0, 0, query] = corner + torch.tensor([0.03, -0.01])
    torch.testing.assert_close(
        criterion(predictions, targets)["loss_top_left"], torch.tensor(5 * 0.04), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("pair", [False, True])
def test_batch_without_objects(pair: bool) -> None:
    criterion = pair_criterion() if pair else SetCriterion(plain_cfg(), SigmoidFocal())
    full, empty = predictions_for(pair=pair), predictions_for(pair=pair)
    keys = set(criterion(full, make_targets(COUNTS)))
    losses = criterion(empty, make_targets([0, 0, 0]))
    assert set(losses) == keys
    for name, loss in losses.items():
        assert torch.isfinite(loss)
        assert loss.requires_grad
        if any(term in name for term in ("box", "giou", "top_left")):
            assert loss == 0
    # With no object to divide by, the normalizer is 1.
    negatives = sigmoid_focal_loss(empty.logits[-1], torch.zeros(3, QUERIES, CLASSES), 0.25, 2.0, reduction="sum")
    torch.testing.assert_close(losses["loss_class"], 2 * negatives)
    sum(losses.values()).backward()
    tensors = [empty.logits, empty.boxes] + ([empty.top_left] if pair else [])
    assert all(tensor.grad is not None and torch.isfinite(tensor.grad).all() for tensor in tensors)
    assert not empty.boxes.grad.any()


def test_single_layer_has_no_auxiliary_terms() -> None:
    losses = SetCriterion(plain_cfg(), SigmoidFocal())(predictions_for(layers=1), make_targets(COUNTS))
    assert set(losses) == {f"loss_{name}" for name in TERMS}


def test_unmatched_boxes_get_no_gradient() -> None:
    criterion = SetCriterion(plain_cfg(), SigmoidFocal())
    predictions, targets = predictions_for(), make_targets(COUNTS)
    assignment = criterion.matcher(predictions.logits, predictions.boxes, targets)
    sum(criterion(predictions, targets).values()).backward()
    has_gradient = {tuple(index) for index in predictions.boxes.grad.abs().sum(-1).nonzero().tolist()}
    matched = zip(assignment.layer.tolist(), assignment.image.tolist(), assignment.query.tolist(), strict=True)
    assert has_gradient == set(matched)


@pytest.mark.parametrize(
    ("class_scoring", "weight"), [(SigmoidFocal(), 2.0), (Softmax(), 1.0)], ids=["focal", "softmax"]
)
def test_published_class_weight_unless_set(class_scoring: SigmoidFocal | Softmax, weight: float) -> None:
    cfg = plain_cfg()
    criterion = SetCriterion(cfg, class_scoring)
    assert (weights_of(criterion)["class"], criterion.matcher.class_weight) == (weight, weight)
    cfg.MODEL.DETR.LOSS.CLASS, cfg.MODEL.DETR.COST.CLASS = 3.0, 0.0
    criterion = SetCriterion(cfg, class_scoring)
    assert (weights_of(criterion)["class"], criterion.matcher.class_weight) == (3.0, 0.0)


def test_weights_of_the_config_reach_matcher_and_losses() -> None:
    cfg = plain_cfg()
    cfg.MODEL.DETR.COST.L1, cfg.MODEL.DETR.COST.GIOU = 3.0, 4.0
    cfg.MODEL.DETR.LOSS.L1, cfg.MODEL.DETR.LOSS.GIOU = 6.0, 7.0
    criterion = SetCriterion(cfg, SigmoidFocal())
    assert (criterion.matcher.l1_weight, criterion.matcher.giou_weight) == (3.0, 4.0)
    assert (weights_of(criterion)["box"], weights_of(criterion)["giou"]) == (6.0, 7.0)


def test_softmax_loss_of_an_empty_batch_is_the_mean_over_no_object() -> None:
    predictions = make_predictions(2, 2, QUERIES, CLASSES + 1)
    losses = SetCriterion(plain_cfg(), Softmax())(predictions, make_targets([0, 0]))
    no_object = torch.full((2 * QUERIES,), CLASSES)
    torch.testing.assert_close(losses["loss_class"], F.cross_entropy(predictions.logits[-1].flatten(0, 1), no_object))


class RecordingFocal(SigmoidFocal):
    """Remembers the normalizer that it was given."""

    num_boxes = 0.0

    def loss(
        self,
        logits: Tensor,
        assignment: Assignment,
        targets: Targets,
        num_boxes: Tensor,
        selected: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        self.num_boxes = num_boxes.item()
        return super().loss(logits, assignment, targets, num_boxes, selected, quality)


def normalizer(targets: Targets) -> float:
    class_scoring = RecordingFocal()
    SetCriterion(plain_cfg(), class_scoring)(make_predictions(2, 1, QUERIES, CLASSES), targets)
    return class_scoring.num_boxes


@pytest.mark.parametrize(("count", "expected"), [(0, 1.0), (1, 1.0), (5, 5.0)])
def test_normalizer_of_one_process(count: int, expected: float) -> None:
    assert normalizer(make_targets([count])) == expected


def test_normalizer_is_the_mean_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pair_detr.utils.distributed.comm.get_world_size", lambda: 2)

    def other_process(*summands: float) -> None:
        reduce = "pair_detr.utils.distributed.dist.all_reduce"
        monkeypatch.setattr(reduce, lambda total: total.add_(torch.tensor(summands)))

    labels = Targets.pack_image_labels([torch.tensor([0])])
    other_process(2, 1)
    assert normalizer(make_targets([5])) == 3.5
    # One process without objects does not count as one with one.
    other_process(4, 1)
    assert normalizer(make_targets([0])) == 2
    # With fewer objects than processes, their sum over the processes is that of one process with the whole batch.
    other_process(0, 1)
    assert normalizer(make_targets([1])) == normalizer(make_targets([0])) == 0.5
    other_process(1, 1)
    assert normalizer(make_targets([0])) == 0.5
    other_process(4, 1)
    # One that has image labels does not count at all, neither as this process nor as the other.
    assert normalizer(labels) == 4
    other_process(0, 0)
    assert normalizer(make_targets([5])) == 5
    assert normalizer(labels) == 1


def test_losses_are_fp32_under_autocast() -> None:
    criterion = pair_criterion()
    predictions, targets = predictions_for(pair=True), make_targets(COUNTS)
    expected = criterion(predictions, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(predictions, targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("COST__GIOU", r"MODEL\.DETR\.COST\.GIOU is -1\.0; it must be 0 or more"),
        ("LOSS__L1", r"MODEL\.DETR\.LOSS\.L1 is -1\.0"),
        ("PAIR__CONTRASTIVE_WEIGHT", r"MODEL\.DETR\.PAIR\.CONTRASTIVE_WEIGHT is -1\.0"),
        ("PAIR__TEMPERATURE", r"MODEL\.DETR\.PAIR\.TEMPERATURE is -1\.0; it must be above 0"),
    ],
)
def test_negative_weights_are_refused(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny_cfg(**{key: -1.0}))


class ConstantTerm(LossTerm):
    def __init__(self, returned: str, **weights: float) -> None:
        super().__init__(**weights)
        self.returned = returned

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        return {self.returned: matched.predictions.logits.new_ones(1)}


def test_names_of_losses_are_those_of_their_weights_and_occur_once() -> None:
    """One of two with the same name would be lost without a word."""
    matcher = SetCriterion(plain_cfg(), SigmoidFocal()).matcher
    with pytest.raises(ValueError, match="Several loss terms are called box: give each loss a name of its own"):
        SetCriterion(matcher=matcher, terms=[ConstantTerm("box", box=1.0), ConstantTerm("box", box=5.0)])
    criterion = SetCriterion(matcher=matcher, terms=[ConstantTerm("other", box=1.0)])
    with pytest.raises(ValueError, match="ConstantTerm returns the losses other, but has weights for box"):
        criterion(predictions_for(), make_targets(COUNTS))
    two = SetCriterion(matcher=matcher, terms=[ConstantTerm("a", a=2.0), ConstantTerm("b", b=3.0)])
    assert {name: loss.item() for name, loss in two(predictions_for(), make_targets(COUNTS)).items()} == {
        "loss_a": 2.0,
        "loss_b": 3.0,
    }
