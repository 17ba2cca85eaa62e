"""Everything that a report says, before it is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from pair_detr.report.averages import SIZES, Averages, averages
from pair_detr.report.calibration import Calibration, calibrate
from pair_detr.report.confusion import confusion_matrix
from pair_detr.report.error_types import lost_precision
from pair_detr.report.image_outcomes import ImageOutcome, image_outcomes
from pair_detr.report.outcomes import find_outcomes
from pair_detr.report.thresholds import ThresholdCurve, threshold_curve


@dataclass(frozen=True)
class Content:
    """What a report says of an evaluation.

    Attributes:
        evaluation: pycocotools' object.
        class_names: of its categories 1, 2, ...
        total: AP and AR of all classes.
        by_class: of each class, by its name.
        by_size: of all classes, by the size of the objects.
        curve: precision and recall of all classes together by threshold.
        class_curves: of each class, by its name.
        threshold: from which on detections count: the one with the largest F1, or the user's.
        confusion: see :func:`pair_detr.report.confusion.confusion_matrix`.
        lost: see :func:`pair_detr.report.error_types.lost_precision`; None if it was not asked
            for, or there are no objects or no detections.
        calibration: of all detections.
        calibration_above: of those that count.
        images: the outcome of each image.
    """

    evaluation: COCOeval
    class_names: Sequence[str]
    total: Averages
    by_class: Mapping[str, Averages]
    by_size: Mapping[str, Averages]
    curve: ThresholdCurve
    class_curves: Mapping[str, ThresholdCurve]
    threshold: float
    confusion: np.ndarray
    lost: Mapping[str, float] | None
    calibration: Calibration
    calibration_above: Calibration
    images: Sequence[ImageOutcome]

    def at_threshold(self) -> dict[str, float]:
        """Precision, recall and F1 of the detections that count, and how many there are."""
        correct = sum(len(image.correct) for image in self.images)
        wrong = sum(len(image.wrong) for image in self.images)
        missed = sum(len(image.missed) for image in self.images)
        return {
            "threshold": self.threshold,
            "detections": correct + wrong,
            "precision": correct / (correct + wrong) if correct + wrong else float("nan"),
            "recall": correct / (correct + missed) if correct + missed else float("nan"),
            "f1": 2 * correct / (2 * correct + wrong + missed) if correct + wrong + missed else float("nan"),
        }

    def numbers(self) -> dict[str, Any]:
        """All numbers, for programs; AP and AR in percent, the others are shares of 1."""
        return {
            "all_classes": asdict(self.total),
            "by_size": {size: asdict(values) for size, values in self.by_size.items()},
            "by_class": {
                name: asdict(values) | {"best_threshold": at_best(self.class_curves[name])}
                for name, values in self.by_class.items()
            },
            "at_threshold": self.at_threshold(),
            "suggested_threshold": at_best(self.curve),
            "confusion": {"classes": list(self.class_names), "matrix": self.confusion.tolist()},
            "ap50_lost": None if self.lost is None else dict(self.lost),
            "calibration": {
                "expected_error": self.calibration.expected_error(),
                "expected_error_above_threshold": self.calibration_above.expected_error(),
                "detections": self.calibration.counts.tolist(),
                "mean_score": self.calibration.scores.tolist(),
                "correct": self.calibration.correct.tolist(),
            },
        }


def at_best(curve: ThresholdCurve) -> dict[str, float]:
    """The threshold with the largest F1, and precision, recall and F1 there."""
    values = {"threshold": curve.thresholds, "precision": curve.precision, "recall": curve.recall, "f1": curve.f1}
    return {name: float(column[curve.best]) for name, column in values.items()}


def compute(
    evaluation: COCOeval, class_names: Sequence[str], threshold: float | None = None, error_types: bool = True
) -> Content:
    """Computes what a report says.

    Args:
        evaluation: of pycocotools, accumulated, with categories 1, 2, ...
        class_names: of these.
        threshold: from which on detections count in confusion matrix and pictures; None takes that of the largest F1.
        error_types: whether to find out what AP is lost to, which needs tidecv.

    Raises:
        ImportError: supervision, or for ``error_types`` tidecv, is not installed.
    """
    outcomes = find_outcomes(evaluation)
    curve = threshold_curve(outcomes)
    are_compared = bool(len(outcomes.ids) and len(outcomes.object_ids))
    chosen = float(curve.thresholds[curve.best]) if threshold is None else threshold
    return Content(
        evaluation=evaluation,
        class_names=class_names,
        total=averages(evaluation),
        by_class={name: averages(evaluation, index) for index, name in enumerate(class_names)},
        by_size={size: averages(evaluation, size=size) for size in SIZES},
        curve=curve,
        class_curves={name: threshold_curve(outcomes, index) for index, name in enumerate(class_names)},
        threshold=chosen,
        confusion=confusion_matrix(evaluation, outcomes, len(class_names), chosen),
        lost=lost_precision(evaluation) if error_types and are_compared else None,
        calibration=calibrate(outcomes),
        calibration_above=calibrate(outcomes, chosen),
        images=image_outcomes(outcomes, evaluation.params.imgIds, chosen),
    )
