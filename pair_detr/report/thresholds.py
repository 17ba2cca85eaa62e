"""Precision, recall and F1 by the score from which on detections count."""

from dataclasses import dataclass

import numpy as np

from pair_detr.report.outcomes import Outcomes

# Two digits, as people set them.
_THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class ThresholdCurve:
    """Of detections with at least a score; N thresholds, rising.

    Attributes:
        thresholds: (N,).
        precision: (N,), the share of these detections that is correct; NaN without any.
        recall: (N,), the share of the objects that they find; NaN without objects.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(N,) the harmonic mean of both, 0 where nothing is detected; NaN without objects."""
        total = np.nan_to_num(self.precision) + self.recall
        return np.divide(2 * np.nan_to_num(self.precision) * self.recall, total, out=total.copy(), where=total > 0)

    @property
    def best(self) -> int:
        """Index of the threshold with the largest F1: the middle one of several that follow each other."""
        f1 = np.nan_to_num(self.f1)
        first = int(f1.argmax())
        different = np.flatnonzero(f1[first:] < f1[first])
        return first + (int(different[0]) - 1 if len(different) else 0) // 2


def threshold_curve(outcomes: Outcomes, index: int | None = None) -> ThresholdCurve:
    """The curve of a class; of all detections and objects together without ``index``."""
    kept = np.full(len(outcomes.scores), True) if index is None else outcomes.classes == index
    objects = len(outcomes.object_ids) if index is None else int((outcomes.object_classes == index).sum())
    scores = np.sort(outcomes.scores[kept])
    correct = np.sort(outcomes.scores[kept & outcomes.correct])
    # Scores of exactly the threshold count.
    detected = len(scores) - np.searchsorted(scores, _THRESHOLDS)
    right = len(correct) - np.searchsorted(correct, _THRESHOLDS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ThresholdCurve(_THRESHOLDS, right / detected, right / np.float64(objects))
