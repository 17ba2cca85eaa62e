"""Whether a score says how often detections are correct."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binned_statistic

from pair_detr.report.outcomes import Outcomes

_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Detections in ten bins of their scores.

    Attributes:
        counts: (10,) detections.
        scores: (10,) their mean score, NaN without any.
        correct: (10,) the share of them that is correct, NaN without any.
    """

    counts: np.ndarray
    scores: np.ndarray
    correct: np.ndarray

    def expected_error(self) -> float:
        """Mean distance of score and share that is correct, each bin by its detections; NaN without any.

        The expected calibration error of Guo et al. 2017, "On calibration of modern neural networks", section 2.
        """
        filled = self.counts > 0
        if not filled.any():
            return float("nan")
        return float(np.average(np.abs(self.scores - self.correct)[filled], weights=self.counts[filled]))


def calibrate(outcomes: Outcomes, threshold: float = 0.0) -> Calibration:
    """The calibration of detections with at least a score of ``threshold``."""
    kept = outcomes.scores >= threshold
    scores, correct = outcomes.scores[kept], outcomes.correct[kept]
    if not len(scores):
        return Calibration(np.zeros(_BINS, int), np.full(_BINS, np.nan), np.full(_BINS, np.nan))
    counts, _, _ = binned_statistic(scores, scores, "count", _BINS, (0, 1))
    (means, shares), _, _ = binned_statistic(scores, [scores, correct], "mean", _BINS, (0, 1))
    return Calibration(counts.astype(int), means, shares)
