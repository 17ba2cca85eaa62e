"""What stands out in a report, in sentences."""

import math
from collections.abc import Iterator

import numpy as np

from pair_detr.report.averages import SIZES
from pair_detr.report.content import Content, at_best
from pair_detr.report.error_types import ERROR_TYPES
from pair_detr.utils.messages import counted

# Points of AP between sizes, and of probability, that are worth a sentence.
_GAP_OF_SIZES, _GAP_OF_SCORES = 10.0, 0.1


def find(content: Content) -> list[str]:
    """Sentences, the most important first."""
    return [sentence for finding in _FINDINGS for sentence in finding(content)]


def _threshold(content: Content) -> Iterator[str]:
    if not content.total.objects:
        yield "The dataset has no objects, so that nothing can be said of what is found."
        return
    best = at_best(content.curve)
    if best["f1"] == 0 and content.total.ap50 > 0:
        yield (
            f"No correct detection has a score of {content.curve.thresholds[0]:.2f} or more, so that no threshold can "
            "be suggested: AP, which asks for the order of scores alone, says more."
        )
        return
    if best["f1"] == 0:
        yield "No detection is correct: the model has not learnt to find these objects yet."
        return
    yield (
        f"Detections with a score of {best['threshold']:.2f} or more are the best compromise: {best['precision']:.0%} "
        f"of them are correct, and they find {best['recall']:.0%} of the objects (F1 {best['f1']:.2f})."
    )


def _error_types(content: Content) -> Iterator[str]:
    lost = {name: x for name, x in (content.lost or {}).items() if x > 0}
    ranked = sorted(lost, key=lambda name: -lost[name])[:2]
    if not ranked:
        return
    parts = [f'"{ERROR_TYPES[name][0]}" ({lost[name]:.1f} points)' for name in ranked]
    yield f"Most AP50 is lost to errors of the type {', then '.join(parts)}."


def _classes(content: Content) -> Iterator[str]:
    known = {name: x.ap for name, x in content.by_class.items() if math.isfinite(x.ap)}
    if len(known) < 2:
        return
    ranked = sorted(known, key=known.__getitem__)
    low, high = ranked[0], ranked[-1]
    yield f'"{low}" has the lowest AP ({known[low]:.1f}), "{high}" the highest ({known[high]:.1f}).'
    if missing := len(content.by_class) - len(known):
        yield f"{counted(missing, 'class has', 'classes have')} no objects here, and no AP."


def _confusions(content: Content) -> Iterator[str]:
    matrix = content.confusion[:-1, :-1] * (1 - np.eye(len(content.class_names), dtype=int))
    if not matrix.any():
        return
    row, column = np.unravel_index(matrix.argmax(), matrix.shape)
    total = content.confusion[row].sum()
    yield (
        f'The most frequent confusion: "{content.class_names[row]}" is detected as "{content.class_names[column]}" '
        f"({matrix[row, column]} of {total} times)."
    )


def _sizes(content: Content) -> Iterator[str]:
    known = {size: content.by_size[size].ap for size in SIZES if math.isfinite(content.by_size[size].ap)}
    if len(known) < 2:
        return
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[high] - known[low] >= _GAP_OF_SIZES:
        yield f"{low.capitalize()} objects have an AP of {known[low]:.1f}, {high} ones of {known[high]:.1f}."


def _scores(content: Content) -> Iterator[str]:
    above = content.calibration_above
    total = above.counts.sum()
    if not total:
        return
    score, correct = (float(np.nansum(values * above.counts) / total) for values in (above.scores, above.correct))
    if abs(score - correct) >= _GAP_OF_SCORES:
        direction = "lower" if score < correct else "higher"
        yield (
            f"Scores are {direction} than the share of correct detections: above the threshold they are {score:.0%} on "
            f"average, and {correct:.0%} are correct. Read them as an order, not as probabilities."
        )


def _images(content: Content) -> Iterator[str]:
    clean = sum(not image.errors for image in content.images)
    yield f"{clean} of {counted(len(content.images), 'image has', 'images have')} no error at the threshold."


_FINDINGS = (_threshold, _error_types, _classes, _confusions, _sizes, _scores, _images)
