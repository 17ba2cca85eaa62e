"""Losses of training-only branches against loops, and their normalizers."""

from dataclasses import replace

import pytest
import torch
from model_helpers import make_predictions, make_targets
from torch import Tensor

from pair_detr.layers import cxcywh_to_xyxy
from pair_detr.losses.branches import DenoisingTerm, OneToManyTerm
from pair_detr.losses.classification import MatchabilityAware, SigmoidFocal
from pair_detr.losses.criterion import SetCriterion
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.losses.terms import BoxTerm, ClassTerm, MatchedPredictions
from pair_detr.structures import Assignment, Predictions, Targets

CLASSES = 3
FOCAL = SigmoidFocal()
MATCHER = HungarianMatcher(FOCAL, 2.0, 5.0, 2.0)
CLASS_TERM, BOX_TERM = ClassTerm(2.0, FOCAL), BoxTerm(5.0, 2.0)


def one_to_many(per_object: int = 3, weight: float = 1.0) -> OneToManyTerm:
    return OneToManyTerm("branch", CLASS_TERM, BOX_TERM, weight, per_object)


def matched(branch: Predictions, targets: Targets, groups: int = 1, name: str = "branch") -> MatchedPredictions:
    """With main predictions that nobody looks at."""
    main = make_predictions(1, len(targets.counts) * groups, 4, CLASSES)
    main = replace(main, groups=groups, auxiliary={name: branch})
    count = torch.tensor(float(groups * max(1, len(targets.labels))))
    nothing = Assignment(*torch.zeros(4, 0, dtype=torch.long))
    return MatchedPredictions(main, targets.repeat_images(groups), nothing, count, MATCHER, targets_per_image=targets)


def brute_force(branch: Predictions, targets: Targets, per_object: int) -> set[tuple[int, int, int, int]]:
    """(layer, image, query, object): each object takes its cheapest queries; the one that pays less keeps it."""
    cost = MATCHER.pairwise_cost(branch.logits, branch.boxes, targets)
    rows = set()
    for layer in range(len(cost)):
        wishes = []
        for target, image in enumerate(targets.image_index.tolist()):
            queries = [q for q in range(cost.shape[2]) if is_candidate(branch, targets, target, q)]
            queries.sort(key=lambda q, of=cost[layer, target]: of[q].item())
            wishes += [(cost[layer, target, q].item(), image, q, target) for q in queries[:per_object]]
        for price, image, query, target in wishes:
            others = [p for p, i, q, _ in wishes if (i, q) == (image, query)]
            if price == min(others):
                rows.add((layer, image, query, target))
    return rows


def is_candidate(branch: Predictions, targets: Targets, target: int, query: int) -> bool:
    image = int(targets.image_index[target])
    counted = torch.ones(branch.boxes.shape[2], dtype=torch.bool)
    if branch.is_counted is not None:
        counted = branch.is_counted[image]
    if branch.reference is None:
        return bool(counted[query])
    x0, y0, x1, y1 = cxcywh_to_xyxy(targets.boxes[target]).tolist()
    inside = [
        bool(counted[q]) and x0 < x < x1 and y0 < y < y1 for q, (x, y) in enumerate(branch.reference[image].tolist())
    ]
    if any(inside):
        return inside[query]
    distance = (branch.reference[image] - targets.boxes[target, :2]).abs().sum(-1)
    distance = torch.where(counted, distance, torch.inf)
    return query == int(distance.argmin())


def rows_of(assignment: Assignment, queries: int) -> set[tuple[int, int, int, int]]:
    rows = list(zip(*(x.tolist() for x in vars(assignment).values()), strict=True))
    return {row for row in rows if row[2] < queries}


@pytest.mark.parametrize("per_object", [1, 3, 20])
@pytest.mark.parametrize("with_counted", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
def test_assignment_against_a_loop(with_reference: bool, with_counted: bool, per_object: int) -> None:
    """Many objects for few queries, so that they compete for them."""
    queries, counts = 12, (6, 0, 3)
    for seed in range(5):
        torch.manual_seed(seed)
        branch, targets = make_predictions(2, len(counts), queries, CLASSES), make_targets(counts, CLASSES)
        if with_reference:
            branch.reference = torch.rand(len(counts), queries, 2)
        if with_counted:
            branch.is_counted = torch.rand(len(counts), queries) < 0.6
            branch.is_counted[:, 0] = True
        assignment = one_to_many(per_object).assign(matched(branch, targets))
        assert len(assignment.query) == 2 * sum(counts) * min(per_object, queries)
        assert rows_of(assignment, queries) == brute_force(branch, targets, per_object)
        # What is not matched stands for the query after the last.
        assert assignment.query.max() <= queries


def test_objects_that_compete() -> None:
    """Two objects of one class at nearly the same place: each query is the one's that it fits better."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2]])
    targets = Targets.pack([boxes], [torch.tensor([0, 0])])
    branch = Predictions(
        torch.zeros(1, 1, 4, CLASSES),
        (boxes[0] + torch.tensor([0.02, 0, 0, 0]) * torch.tensor([[0.0], [0.4], [0.6], [1.0]]))[None, None],
    )
    found = rows_of(one_to_many(4).assign(matched(branch, targets)), 4)
    assert found == {(0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 2, 1), (0, 0, 3, 1)}
    # With one query each, the first objects' choice is the best for it.
    found = rows_of(one_to_many(1).assign(matched(branch, targets)), 4)
    assert found == {(0, 0, 0, 0), (0, 0, 3, 1)}


def plain_losses(
    branch: Predictions, targets: Targets, rows: set[tuple[int, ...]], divisor: float
) -> dict[str, Tensor]:
    """Focal, L1 and GIoU losses of each layer, by a loop over the matches."""
    layers, images, queries = branch.boxes.shape[:3]
    expected = torch.zeros(layers, images, queries, CLASSES)
    box, giou = torch.zeros(layers), torch.zeros(layers)
    for layer, image, query, target in rows:
        expected[layer, image, query, targets.labels[target]] = 1
        found, wanted = branch.boxes[layer, image, query], targets.boxes[target]
        box[layer] += (found - wanted).abs().sum()
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (cxcywh_to_xyxy(x).tolist() for x in (found, wanted))
        overlap = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
        union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - overlap
        hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
        giou[layer] += 1 - (overlap / union - (hull - union) / hull)
    prob = branch.logits.sigmoid()
    positive = 0.25 * (1 - prob) ** 2 * -prob.log()
    negative = 0.75 * prob**2 * -(1 - prob).log()
    loss = torch.where(expected.bool(), positive, negative)
    if branch.is_counted is not None:
        loss = loss * branch.is_counted[None, :, :, None]
    return {"class": loss.sum((1, 2, 3)) / divisor, "box": box / divisor, "giou": giou / divisor}


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("with_counted", [False, True])
def test_losses_are_sums_over_the_queries_of_an_object(with_counted: bool, groups: int) -> None:
    """Divided by the objects, whatever the groups of the main queries are."""
    targets = make_targets((3, 0, 2), CLASSES)
    branch = make_predictions(2, 3, 8, CLASSES)
    if with_counted:
        branch.is_counted = torch.arange(8) < torch.tensor([8, 3, 5])[:, None]
    term = one_to_many(3, weight=0.5)
    assert term.weights == {"branch_class": 1.0, "branch_box": 2.5, "branch_giou": 1.0}
    found = term(matched(branch, targets, groups))
    expected = plain_losses(branch, targets, brute_force(branch, targets, 3), divisor=5)
    assert found.keys() == term.weights.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(found[f"branch_{name}"], loss, atol=1e-5, rtol=1e-4)


def test_what_is_not_counted_has_no_gradient() -> None:
    targets = make_targets((3, 2), CLASSES)
    branch = make_predictions(1, 2, 8, CLASSES, requires_grad=True)
    branch.is_counted = torch.rand(2, 8) < 0.5
    branch.is_counted[:, 0] = True
    sum(loss.sum() for loss in one_to_many()(matched(branch, targets)).values()).backward()
    assert (branch.logits.grad[0].abs().sum(-1) > 0).equal(branch.is_counted)
    assert not branch.boxes.grad[0][~branch.is_counted].any()


@pytest.mark.parametrize("groups", [1, 2])
def test_batches_without_objects(groups: int) -> None:
    """Negatives alone, over one object; connected to the graph."""
    targets = make_targets((0, 0), CLASSES)
    branch = make_predictions(2, 2, 5, CLASSES, requires_grad=True)
    branch.reference = torch.rand(2, 5, 2)
    found = one_to_many()(matched(branch, targets, groups))
    expected = plain_losses(branch, targets, set(), divisor=1)
    torch.testing.assert_close(found["branch_class"], expected["class"])
    assert not found["branch_box"].any()
    assert not found["branch_giou"].any()
    sum(loss.sum() for loss in found.values()).backward()
    assert branch.boxes.grad is not None
    assert not branch.boxes.grad.any()


@pytest.mark.parametrize("groups", [1, 4])
def test_denoising_is_the_mean_over_its_groups(groups: int) -> None:
    """Of copies that are alike it is the loss of one; the slots of images with fewer objects do not count."""
    targets = make_targets((2, 0, 1), CLASSES)
    one = make_predictions(2, 3, 2, CLASSES)
    is_counted = torch.tensor([[True, True], [False, False], [True, False]])
    rows = {
        (layer, image, query, target) for layer in (0, 1) for image, query, target in ((0, 0, 0), (0, 1, 1), (2, 0, 2))
    }
    expected = plain_losses(replace(one, is_counted=is_counted), targets, rows, divisor=3)
    copied = [
        (layer, image, query + 2 * group, target)
        for layer, image, query, target in sorted(rows)
        for group in range(groups)
    ]
    branch = Predictions(
        one.logits.repeat(1, 1, groups, 1),
        one.boxes.repeat(1, 1, groups, 1),
        is_counted=is_counted.repeat(1, groups),
        assignment=Assignment(*torch.tensor(copied).T),
    )
    for of_main in (1, 3):
        found = DenoisingTerm(CLASS_TERM, BOX_TERM, 1.0, groups)(matched(branch, targets, of_main, "denoising"))
        for name, loss in expected.items():
            torch.testing.assert_close(found[f"denoising_{name}"], loss, atol=1e-5, rtol=1e-4)


def test_the_quality_of_the_branch_s_own_boxes_counts() -> None:
    """With IoU-aware targets, a query that has no object does not enter."""
    targets = make_targets((2,), CLASSES)
    branch = make_predictions(1, 1, 6, CLASSES)
    branch.boxes[0, 0, :2] = targets.boxes
    term = OneToManyTerm("branch", ClassTerm(1.0, MatchabilityAware()), BOX_TERM, 1.0, 1)
    found = term(matched(branch, targets))["branch_class"]
    prob = branch.logits[0, 0].sigmoid()
    loss = prob**1.5 * -(1 - prob).log()
    for query, label in enumerate(targets.labels):
        loss[query, label] = -prob[query, label].log()
    torch.testing.assert_close(found, loss.sum()[None] / 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("counts", [(2, 3), (0, 0)])
def test_groups_of_copies_have_the_losses_of_one(counts: tuple[int, ...]) -> None:
    """The criterion's normalizer is of all groups, also where there are no objects."""
    criterion = SetCriterion(matcher=MATCHER, terms=[CLASS_TERM, BOX_TERM, one_to_many()])
    targets, one = make_targets(counts, CLASSES), make_predictions(2, 2, 5, CLASSES)
    branch = make_predictions(1, 2, 7, CLASSES)
    expected = criterion(replace(one, auxiliary={"branch": branch}), targets)
    grouped = Predictions(
        one.logits.repeat_interleave(3, 1), one.boxes.repeat_interleave(3, 1), groups=3, auxiliary={"branch": branch}
    )
    found = criterion(grouped, targets)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, msg=lambda text, of=name: f"{of}: {text}")
