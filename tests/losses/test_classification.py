"""Both readings of class logits: loss, cost and choice of detections."""

import math

import pytest
import torch
import torch.nn.functional as F
from model_helpers import default_cfg, make_predictions, make_targets
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from pair_detr.losses.build import build_class_scoring
from pair_detr.losses.classification import ClassScoring, SigmoidFocal, Softmax
from pair_detr.structures import Assignment, Targets

# Two layers, three images of 5 queries; the second image is empty, the first object is matched differently in layer 1.
COUNTS = [2, 0, 1]
LABELS = [2, 0, 1]
MATCHES = [(0, 0, 3, 0), (0, 0, 1, 1), (0, 2, 4, 2), (1, 0, 0, 0), (1, 0, 1, 1), (1, 2, 2, 2)]


@pytest.fixture
def assignment() -> Assignment:
    return Assignment(*torch.tensor(MATCHES).T)


@pytest.fixture
def targets() -> Targets:
    targets = make_targets(COUNTS)
    targets.labels = torch.tensor(LABELS)
    return targets


def expected_labels(background: int) -> Tensor:
    """(L, B, Q)."""
    labels = torch.full((2, 3, 5), background)
    for layer, image, query, target in MATCHES:
        labels[layer, image, query] = LABELS[target]
    return labels


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.4, 1.0)])
def test_focal_loss_equals_torchvision(assignment: Assignment, targets: Targets, alpha: float, gamma: float) -> None:
    logits = make_predictions(2, 3, 5, 3).logits * 3
    loss = SigmoidFocal(alpha, gamma).loss(logits, assignment, targets, torch.tensor(7.0))
    one_hot = F.one_hot(expected_labels(3), 4)[..., :3].float()
    for layer in range(2):
        expected = sigmoid_focal_loss(logits[layer], one_hot[layer], alpha, gamma, reduction="sum") / 7
        torch.testing.assert_close(loss[layer], expected)


def test_focal_loss_by_hand() -> None:
    """One query, one object: -0.25 (1 - p)^2 log p for the label, -0.75 p^2 log(1 - p) for the other class."""
    logits = torch.tensor([[[[0.3, -1.2]]]])
    targets = Targets.pack([torch.tensor([[0.5, 0.5, 0.2, 0.2]])], [torch.tensor([0])])
    match = Assignment(*torch.zeros(4, 1, dtype=torch.long))
    p, q = torch.tensor([0.3, -1.2]).sigmoid()
    expected = -0.25 * (1 - p) ** 2 * p.log() - 0.75 * q**2 * (1 - q).log()
    torch.testing.assert_close(SigmoidFocal().loss(logits, match, targets, torch.tensor(1.0)), expected[None])


@pytest.mark.parametrize("no_object_weight", [0.1, 0.7])
def test_softmax_loss_equals_torch(assignment: Assignment, targets: Targets, no_object_weight: float) -> None:
    logits = make_predictions(2, 3, 5, 4).logits
    loss = Softmax(no_object_weight).loss(logits, assignment, targets, torch.tensor(7.0))
    weight = torch.tensor([1, 1, 1, no_object_weight])
    labels = expected_labels(3)
    for layer in range(2):
        expected = F.cross_entropy(logits[layer].transpose(1, 2), labels[layer], weight)
        torch.testing.assert_close(loss[layer], expected)


@pytest.mark.parametrize("class_scoring", [SigmoidFocal(), Softmax()], ids=["focal", "softmax"])
def test_cost_falls_with_the_probability_of_the_label(class_scoring: ClassScoring, targets: Targets) -> None:
    logits = torch.zeros(2, 3, 5, class_scoring.num_logits(3))
    logits[1, 2, 4, 1] = 3.0
    cost = class_scoring.cost(logits, targets)
    assert cost.shape == (2, 3, 5)
    # Object 2 has label 1 and lies in image 2; the others do not see that logit.
    assert cost[1, 2].argmin() == 4
    assert torch.equal(cost[0], cost[0, :1, :1].expand(3, 5))
    assert torch.equal(cost[1, :2], cost[0, :2])


def test_focal_cost_by_hand() -> None:
    """0.25 (1 - p)^2 -log(p + eps) - 0.75 p^2 -log(1 - p + eps) with eps 1e-8, where p of 20 is 1 in fp32."""
    targets = Targets.pack([torch.tensor([[0.5, 0.5, 0.2, 0.2]])], [torch.tensor([0])])
    cost = SigmoidFocal().cost(torch.tensor([20.0, -20.0, 0.0]).view(1, 1, 3, 1), targets)
    low = 1 / (1 + math.exp(20))
    expected = [0.75 * math.log(1e-8), -0.25 * math.log(low + 1e-8), (0.25 - 0.75) * 0.25 * math.log(2)]
    torch.testing.assert_close(cost, torch.tensor(expected).view(1, 1, 3), atol=1e-4, rtol=0)


def test_focal_detections_rank_all_pairs_of_query_and_class() -> None:
    logits = torch.tensor([[[2.0, 1.5, -3.0], [-1.0, 0.0, 3.0]], [[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]]])
    scores, labels, queries = SigmoidFocal().detections(logits, limit=4)
    assert labels.tolist() == [[2, 0, 1, 1], [0, 1, 2, 2]]
    assert queries.tolist() == [[1, 0, 0, 1], [1, 1, 1, 0]]
    expected = torch.tensor([[3.0, 2.0, 1.5, 0.0], [0.6, 0.5, 0.4, 0.3]]).sigmoid()
    torch.testing.assert_close(scores, expected)


def test_softmax_detections_are_one_a_query_and_never_no_object() -> None:
    # The first query's best column is no-object; its best class is given all the same, as in DETR.
    logits = torch.tensor([[[1.0, 2.0, 5.0], [3.0, -1.0, 0.0], [0.0, 0.5, 0.0]]])
    scores, labels, queries = Softmax().detections(logits, limit=2)
    probability = logits.softmax(-1)[0]
    assert queries.tolist() == [[1, 2]]
    assert labels.tolist() == [[0, 1]]
    torch.testing.assert_close(scores, torch.stack((probability[1, 0], probability[2, 1]))[None])
    scores, labels, queries = Softmax().detections(logits, limit=10)
    assert queries.tolist() == [[1, 2, 0]]
    assert labels.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("class_scoring", [SigmoidFocal(), Softmax()], ids=["focal", "softmax"])
def test_limit_above_the_number_of_candidates(class_scoring: ClassScoring) -> None:
    scores, labels, queries = class_scoring.detections(torch.randn(2, 3, class_scoring.num_logits(2)), limit=100)
    assert scores.shape == labels.shape == queries.shape
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert labels.max() < 2


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ("auto", "focal", SigmoidFocal),
        ("auto", "softmax", Softmax),
        ("focal", "softmax", SigmoidFocal),
        ("softmax", "focal", Softmax),
    ],
)
def test_config_chooses(value: str, default: str, expected: type[ClassScoring]) -> None:
    cfg = default_cfg()
    cfg.MODEL.DETR.LOSS.CLASSIFICATION = value
    assert type(build_class_scoring(cfg, default)) is expected


def test_config_reaches_the_parameters() -> None:
    cfg = default_cfg()
    loss = cfg.MODEL.DETR.LOSS
    loss.FOCAL_ALPHA, loss.FOCAL_GAMMA, loss.PRIOR_PROB, loss.NO_OBJECT_WEIGHT = 0.3, 1.5, 0.05, 0.2
    focal, softmax = build_class_scoring(cfg, "focal"), build_class_scoring(cfg, "softmax")
    assert (focal.alpha, focal.gamma, focal.prior_prob) == (0.3, 1.5, 0.05)
    assert softmax.no_object_weight == 0.2
    assert (focal.default_weight, softmax.default_weight) == (2.0, 1.0)


def test_focal_detections_of_one_class_per_query() -> None:
    logits = torch.tensor([[[2.0, 1.5, -3.0], [-1.0, 0.0, 3.0]], [[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]]])
    scoring = SigmoidFocal(one_class_per_query=True)
    scores, labels, queries = scoring.detections(logits, limit=4)
    assert (labels.tolist(), queries.tolist()) == ([[2, 0], [0, 2]], [[1, 0], [1, 0]])
    torch.testing.assert_close(scores, torch.tensor([[3.0, 2.0], [0.6, 0.3]]).sigmoid())
    # The best of the classes that are to be detected.
    scores, labels, queries = scoring.detections(logits, limit=1, allowed=torch.tensor([False, True, True]))
    assert (labels.tolist(), queries.tolist()) == ([[2], [1]], [[1], [1]])
    cfg = default_cfg()
    assert not build_class_scoring(cfg, "focal").one_class_per_query
    cfg.TEST.ONE_CLASS_PER_QUERY = True
    assert all(build_class_scoring(cfg, name).one_class_per_query for name in ("focal", "mal"))


def test_other_class_scores() -> None:
    """Logits that are read as them: of sigmoids exactly, of a softmax in their relation to each other and to none."""
    scores, logits = torch.rand(2, 5, 3) * 0.3, torch.randn(2, 5, 4)
    found = SigmoidFocal().with_class_scores(logits[..., :3], scores.log())
    torch.testing.assert_close(SigmoidFocal().probabilities(found), scores)
    # Scores too small for fp32, and one that rounds to 1, stay finite.
    extreme = SigmoidFocal().with_class_scores(logits[..., :2], torch.tensor([-200.0, 0.0]))
    torch.testing.assert_close(extreme, torch.tensor([-200.0, 13.8155]), atol=1e-2, rtol=0)
    found = Softmax().probabilities(Softmax().with_class_scores(logits, scores.log()))
    expected = torch.cat((scores, logits.softmax(-1)[..., -1:]), dim=-1)
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
