"""What AP is lost to: scenes with a single kind of error."""

import sys

import pytest
from matplotlib import rcParams
from report_helpers import CAT, DOG, evaluate, needs_tidecv

from pair_detr.report.error_types import ERROR_TYPES, lost_precision, require_tidecv

pytestmark = needs_tidecv

CATS = [(1, 0, CAT, 0), (1, 0, DOG, 0)]


@pytest.mark.parametrize(
    ("kind", "objects", "detections"),
    [
        # All of both classes: the dog is found after it is taken for a cat.
        ("Cls", [(1, 0, CAT, 0), (1, 1, DOG, 0)], [(1, 0, CAT, 0.9), (1, 0, DOG, 0.8)]),
        ("Loc", CATS, [(1, 0, CAT, 0.9), (1, 0, (75, 20, 115, 60), 0.8)]),
        ("Dupe", CATS, [(1, 0, CAT, 0.9), (1, 0, (11, 10, 40, 40), 0.8), (1, 0, DOG, 0.7)]),
        ("Bkg", CATS, [(1, 0, (0, 80, 20, 99), 0.95), (1, 0, CAT, 0.9), (1, 0, DOG, 0.7)]),
        ("Miss", CATS, [(1, 0, CAT, 0.9)]),
    ],
)
def test_one_kind_of_error(kind: str, objects: list, detections: list) -> None:
    evaluator = evaluate(objects, detections, images=1)
    lost = lost_precision(evaluator.evaluations["bbox"])
    assert list(lost) == list(ERROR_TYPES)
    # Without it, all would be right; AP50 of the evaluation is what is left.
    assert lost.pop(kind) == pytest.approx(100 - evaluator.results["bbox"]["AP50"], abs=0.01)
    assert set(lost.values()) == {0.0}


def test_limits_to_detections_are_those_of_the_evaluation() -> None:
    """100 for each class of an image, as pycocotools counts them, rather than for all of them together."""
    corners = [(x, y) for x in range(0, 120, 12) for y in range(0, 96, 12)]
    objects = [(1, index, (x, y, x + 10.0, y + 10.0), 0) for index in (0, 1) for x, y in corners]
    detections = [(*item[:3], 0.9 - number / 1000) for number, item in enumerate(objects)]
    evaluator = evaluate(objects, detections, images=1)
    assert evaluator.results["bbox"]["AP50"] == pytest.approx(100)
    assert set(lost_precision(evaluator.evaluations["bbox"]).values()) == {0.0}
    # The 101st of its class, which does not count, would find the owl.
    owls = [*objects, (1, 2, CAT, 0), (2, 2, CAT, 0)]
    others = [*detections, (2, 2, CAT, 0.95), *((1, 2, (0, 0, 5, 5), 0.5 - number / 1000) for number in range(100))]
    without, beyond = (
        lost_precision(evaluate(owls, found, images=2).evaluations["bbox"])
        for found in (others, [*others, (1, 2, CAT, 0.1)])
    )
    assert without == beyond
    assert beyond["Miss"] > 10


def test_detections_in_crowds_are_no_errors() -> None:
    objects = [(1, 0, CAT, 0), (1, 0, DOG, 1)]
    lost = lost_precision(
        evaluate(objects, [(1, 0, (65, 25, 95, 55), 0.9), (1, 0, CAT, 0.8)], images=1).evaluations["bbox"]
    )
    assert set(lost.values()) == {0.0}


def test_the_style_of_other_figures_stays() -> None:
    """tidecv sets that of seaborn."""
    before = dict(rcParams)
    lost_precision(evaluate(CATS, [(1, 0, CAT, 0.9)], images=1).evaluations["bbox"])
    assert dict(rcParams) == before


def test_a_missing_tidecv_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tidecv", None)
    with pytest.raises(ImportError, match=r"tidecv cannot be imported .*: pip install --no-deps tidecv==1.0.1 &&"):
        require_tidecv()
