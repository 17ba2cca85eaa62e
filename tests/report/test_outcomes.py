"""What is right and wrong, against a scene worked out by hand, pycocotools, and scikit-learn."""

import numpy as np
import pytest
from report_helpers import CAT, DOG, OBJECTS, evaluate, random_items
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, precision_score

from pair_detr.report.averages import averages, precision_recall
from pair_detr.report.calibration import calibrate
from pair_detr.report.confusion import confusion_matrix
from pair_detr.report.image_outcomes import image_outcomes, worst_and_best
from pair_detr.report.outcomes import find_outcomes
from pair_detr.report.thresholds import threshold_curve


def test_outcomes_of_a_scene() -> None:
    outcomes = find_outcomes(evaluate().evaluations["bbox"])
    found = sorted(zip(outcomes.images, outcomes.classes, outcomes.scores.round(3), outcomes.correct, strict=True))
    assert found == [
        (1, 0, 0.65, False),
        (1, 0, 0.8, False),
        (1, 0, 0.9, True),
        (2, 1, 0.5, True),
        (3, 1, 0.3, False),
    ]
    objects = zip(outcomes.object_images, outcomes.object_classes, outcomes.object_scores.round(3), strict=True)
    # The crowd is none of them.
    assert sorted(objects) == [(1, 0, 0.9), (1, 1, -1), (2, 1, 0.5), (3, 2, -1)]


def test_outcomes_without_detections_and_without_objects() -> None:
    nothing = find_outcomes(evaluate(detections=[]).evaluations["bbox"])
    assert (len(nothing.scores), len(nothing.object_ids)) == (0, 4)
    assert (nothing.object_scores == -1).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_threshold_matches_as_if_lower_scores_were_not_there(seed: int) -> None:
    objects, detections = random_items(seed)
    whole = find_outcomes(evaluate(objects, detections, images=30).evaluations["bbox"])
    kept = [item for item in detections if item[3] >= 0.4]
    alone = find_outcomes(evaluate(objects, kept, images=30).evaluations["bbox"])
    assert whole.correct[whole.scores >= 0.4].sum() == alone.correct.sum() > 10
    assert (whole.object_scores >= 0.4).sum() == (alone.object_scores >= 0).sum()


@pytest.mark.parametrize("index", [None, 1])
def test_curves_by_threshold_are_those_of_scikit_learn(index: int | None) -> None:
    outcomes = find_outcomes(evaluate(*random_items(2), images=30).evaluations["bbox"])
    curve = threshold_curve(outcomes, index)
    kept = np.full(len(outcomes.scores), True) if index is None else outcomes.classes == index
    missed = (outcomes.object_scores < 0)[(outcomes.object_classes == index) if index is not None else ...].sum()
    # An object that is never found is one with a score below all thresholds.
    truth = np.concatenate([outcomes.correct[kept], np.full(missed, True)])
    scores = np.concatenate([outcomes.scores[kept], np.full(missed, -1.0)])
    for place in (9, 39, 79):
        predicted = scores >= curve.thresholds[place]
        assert curve.precision[place] == pytest.approx(precision_score(truth, predicted))
        assert curve.f1[place] == pytest.approx(f1_score(truth, predicted))
    assert curve.f1[curve.best] == np.nanmax(curve.f1)


def test_the_best_threshold_is_in_the_middle_of_equal_ones() -> None:
    """The owl of 0.3 and the cat of 0.9 are correct: from 0.31 to 0.9 F1 is lower than up to 0.3."""
    detections = [(1, 0, CAT, 0.9), (1, 1, DOG, 0.3)]
    curve = threshold_curve(find_outcomes(evaluate(OBJECTS[:2], detections, images=1).evaluations["bbox"]))
    assert curve.thresholds[curve.best] == pytest.approx(0.15)
    assert curve.f1[curve.best] == 1
    assert np.isnan(curve.precision[-1])
    assert curve.f1[-1] == 0


def test_averages_are_those_of_the_evaluation() -> None:
    evaluator = evaluate(*random_items(3), images=30)
    evaluation, results = evaluator.evaluations["bbox"], evaluator.results["bbox"]
    total = averages(evaluation)
    assert (total.ap, total.ap50, total.ap75) == pytest.approx((results["AP"], results["AP50"], results["AP75"]))
    assert total.ar == pytest.approx(100 * evaluation.stats[8])
    for size, ap, ar in (("small", "APs", 9), ("medium", "APm", 10)):
        of_size = averages(evaluation, size=size)
        assert (of_size.ap, of_size.ar) == pytest.approx((results[ap], 100 * evaluation.stats[ar]))
    assert np.isnan(averages(evaluation, size="large").ap)
    for index, name in enumerate(("cat", "dog", "<b>owl</b>")):
        assert averages(evaluation, index).ap == pytest.approx(results[f"AP-{name}"])
    assert sum(averages(evaluation, index).objects for index in range(3)) == total.objects
    assert 100 * precision_recall(evaluation)[1].mean() == pytest.approx(results["AP50"])


def test_crowds_and_other_sizes_are_not_counted() -> None:
    evaluation = evaluate().evaluations["bbox"]
    assert averages(evaluation).objects == 4
    assert averages(evaluation, 0).objects == 1
    # 30 x 30 is small, 40 x 40 is medium.
    assert (averages(evaluation, size="small").objects, averages(evaluation, size="medium").objects) == (3, 1)


def test_confusion_of_a_scene() -> None:
    evaluation = evaluate().evaluations["bbox"]
    outcomes = find_outcomes(evaluation)
    matrix = confusion_matrix(evaluation, outcomes, 3, 0.5)
    # Rows: cat, dog, owl, nothing; the last column is not detected. The dog of 1 is taken for a cat.
    assert matrix.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert confusion_matrix(evaluation, outcomes, 3, 0.29)[3].tolist() == [1, 1, 0, 0]


def test_confusion_does_not_depend_on_the_order_of_classes() -> None:
    objects, detections = random_items(4)
    order = np.array([2, 0, 1])

    def confuse(items: list[list]) -> np.ndarray:
        evaluation = evaluate(*items, images=30).evaluations["bbox"]
        return confusion_matrix(evaluation, find_outcomes(evaluation), 3, 0.3)

    plain = confuse([objects, detections])
    renamed = confuse([[(i, int(order[c]), b, s) for i, c, b, s in items] for items in (objects, detections)])
    place = [*order, 3]
    assert (renamed[np.ix_(place, place)] == plain).all()
    assert plain[:3].sum() == len(objects)


def test_calibration_is_that_of_scikit_learn() -> None:
    outcomes = find_outcomes(evaluate(*random_items(5), images=30).evaluations["bbox"])
    calibration = calibrate(outcomes)
    correct, scores = calibration_curve(outcomes.correct, outcomes.scores, n_bins=10)
    filled = calibration.counts > 0
    assert calibration.correct[filled] == pytest.approx(correct)
    assert calibration.scores[filled] == pytest.approx(scores)
    assert calibration.counts.sum() == len(outcomes.scores)


def test_expected_error_by_hand() -> None:
    outcomes = find_outcomes(evaluate().evaluations["bbox"])
    # 0.9 is correct, 0.8 and 0.65 are not, 0.5 is, 0.3 is not; each in a bin of its own.
    expected = np.mean([0.1, 0.8, 0.65, 0.5, 0.3])
    assert calibrate(outcomes).expected_error() == pytest.approx(expected)
    assert calibrate(outcomes, 0.85).expected_error() == pytest.approx(0.1)
    assert np.isnan(calibrate(outcomes, 0.95).expected_error())


def test_outcomes_of_images_and_their_order() -> None:
    outcomes = find_outcomes(evaluate().evaluations["bbox"])
    images = image_outcomes(outcomes, [1, 2, 3, 4], 0.5)
    counts = [(len(x.found), len(x.missed), len(x.correct), len(x.wrong)) for x in images]
    assert counts == [(1, 1, 1, 2), (1, 0, 1, 0), (0, 1, 0, 0), (0, 0, 0, 0)]
    assert [x.f1 for x in images] == [0.4, 1, 0, 1]
    worst, best = worst_and_best(images, 2)
    assert [x.image for x in worst] == [3, 1]
    # The empty image has nothing to show.
    assert [x.image for x in best] == [2]
    assert [x.image for x in worst_and_best(images, 1)[1]] == [2]


def test_detections_of_an_image_are_in_the_order_of_their_scores() -> None:
    evaluation = evaluate().evaluations["bbox"]
    (first, *_) = image_outcomes(find_outcomes(evaluation), [1], 0.1)
    assert [evaluation.cocoDt.anns[own]["score"] for own in first.wrong] == [0.8, 0.65]
