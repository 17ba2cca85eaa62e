"""Ways to assign objects to queries, and the study that compares them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from model_helpers import build, make_batch, tiny_cfg
from PIL import Image
from scipy.optimize import linear_sum_assignment
from tool_helpers import pets, save_model

from pair_detr.studies import matching as study_matching
from pair_detr.studies.assignment import METHODS, auction, exact, greedy, sinkhorn
from pair_detr.studies.training_costs import training_costs

TRAP = np.array([[1.0, 2.0, 9.0], [2.0, 10.0, 9.0]])


dataset = pytest.fixture(pets)


def test_other_methods_on_a_trap_for_the_greedy() -> None:
    """The cheapest pair costs 1 and leaves 9 for the other object, 10 in all; the best is 2 + 2."""
    assert exact(TRAP).tolist() == [1, 0]
    assert greedy(TRAP).tolist() == [0, 2]
    assert auction(TRAP).tolist() == [1, 0]
    # Both want query 0: nothing keeps a high temperature from giving it to both.
    assert sinkhorn(TRAP, temperature=0.05).tolist() == [1, 0]
    assert sinkhorn(np.array([[0.0, 1.0], [0.0, 1.0]])).tolist() == [0, 0]


def test_sinkhorn_comes_near_the_exact_assignment_at_a_low_temperature() -> None:
    """In 12 of 20 problems that are close; in 2 of them if queries without an object had another mass."""
    random = np.random.default_rng(0)
    costs = [random.random((8, 12)) for _ in range(20)]
    assert sum((sinkhorn(cost, 0.02, 2000) == exact(cost)).all() for cost in costs) >= 10


@pytest.mark.parametrize(("objects", "queries"), [(1, 1), (1, 5), (6, 6), (8, 20)])
def test_auction_is_within_its_bound(objects: int, queries: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        cost = rng.normal(size=(objects, queries)).round(1)
        rows, best = linear_sum_assignment(cost)
        columns = auction(cost, epsilon=0.01)
        assert len(set(columns.tolist())) == objects
        assert cost[rows, columns].sum() <= cost[rows, best].sum() + objects * 0.01 + 1e-9


def test_outcomes_are_judged_against_the_exact_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = study_matching.judge("greedy", [TRAP, -TRAP])
    # Of -TRAP: exact takes 10 and 9, as greedy does.
    assert (outcome.valid, outcome.optimal, outcome.changed) == (1, 0.5, 0.5)
    assert outcome.gap == pytest.approx((6 / 2 + 0) / 2)
    monkeypatch.setitem(METHODS, "greedy", lambda cost: np.zeros(len(cost), dtype=int))
    invalid = study_matching.judge("greedy", [TRAP])
    assert (invalid.valid, invalid.optimal) == (0, 0)
    assert np.isnan(invalid.gap)


def test_training_costs_are_those_of_the_matcher() -> None:
    """Of every decoder layer and image with objects."""
    model = build(tiny_cfg())
    batch = make_batch([(40, 56), (32, 24), (40, 40)], [2, 3, 0])
    costs = training_costs(model, [batch])
    assert [cost.shape for cost in costs] == [(2, 7)] * 3 + [(3, 7)] * 3
    with torch.no_grad():
        images = model.preprocess(batch)
        predictions, targets = model.detector(images), model.pack_targets(batch, images)
        assignment = model.criterion.matcher(predictions.logits, predictions.boxes, targets)
    last_of_second = (assignment.layer == 2) & (assignment.image == 1)
    assert exact(costs[5]).tolist() == assignment.query[last_of_second].tolist()


def test_training_costs_of_groups() -> None:
    """Each group of an image by itself."""
    model = build(tiny_cfg(QUERY_GROUPS=2))
    batch = make_batch([(40, 56), (32, 24), (40, 40)], [2, 0, 3])
    costs = training_costs(model, [batch])
    assert [cost.shape for cost in costs] == [(2, 7)] * 6 + [(3, 7)] * 6
    with torch.no_grad():
        images = model.preprocess(batch)
        targets = model.pack_targets(batch, images)
        predictions = model.detector(images, targets)
        for group in range(2):
            of_group = predictions.logits[:, group::2], predictions.boxes[:, group::2]
            expected = model.criterion.matcher.pairwise_cost(*of_group, targets).numpy()
            np.testing.assert_allclose(costs[3 * group + 2], expected[2, :2], atol=1e-4)
            np.testing.assert_allclose(costs[6 + 3 * group], expected[0, 2:], atol=1e-4)


def test_study_writes_a_figure_and_the_costs(tmp_path: Path, dataset: str) -> None:
    config, weights = save_model(tmp_path, tiny_cfg(NUM_CLASSES=2))[1::2]
    output = tmp_path / "out" / "study.png"
    arguments = ["--config-file", config, "--stages", weights, "--images", "2", "--output", str(output)]
    options = ["DATASETS.TRAIN", f"('{dataset}',)", "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(40,)"]
    options += ["INPUT.RESIZE_CROP.ENABLED", "False"]
    study_matching.main([*arguments, "--dump", str(tmp_path / "costs.npz"), "--opts", *options])
    assert min(Image.open(output).size) > 300
    costs = np.load(tmp_path / "costs.npz")
    assert [cost.shape for cost in costs.values()] == [(2, 7)] * 3
    for option, file in (("--output", "study.gif"), ("--dump", "costs.bin")):
        with pytest.raises(SystemExit, match="2"):
            study_matching.main([*arguments, option, file, "--opts", *options])


def test_stages_of_a_study_are_told_apart() -> None:
    """By iteration; the final checkpoints of two runs by their paths."""
    assert study_matching.name_stages(["a/model_0000199.pth", "a/model_0000000.pth", "a/model_final.pth"]) == [
        "199",
        "0",
        "final",
    ]
    assert study_matching.name_stages(["a/model_final.pth", "b/model_final.pth"]) == ["a/model_final", "b/model_final"]
