"""The figures of a report."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pair_detr.drawing.text import drawable, set_fonts
from pair_detr.report.averages import SIZES, Averages
from pair_detr.report.calibration import Calibration
from pair_detr.report.error_types import ERROR_TYPES
from pair_detr.report.thresholds import ThresholdCurve

# Blue for what is right and vermilion for what is wrong, as in the pictures.
_BLUE, _VERMILION, _GRAY = "#0072b2", "#d55e00", "#999999"
# Lines and bars of more classes cannot be told apart.
_CLASSES_OF_CURVES, _CLASSES_OF_BARS, _CLASSES_OF_MATRIX = 8, 30, 24
_NAME_LENGTH = 18


def draw_precision_recall(
    total: tuple[np.ndarray, np.ndarray], by_class: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Precision by recall at an IoU of 0.5: of all classes, and each of them if they are few."""
    figure, axis = _figure()
    if len(by_class) <= _CLASSES_OF_CURVES:
        for name, (recall, precision) in by_class.items():
            axis.plot(recall, precision, linewidth=1, label=_short(name))
    axis.plot(*total, color="black", linewidth=2.5, label="mean of the classes")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize=8)
    return _finished(figure)


def draw_thresholds(curve: ThresholdCurve) -> Figure:
    """Precision, recall and F1 by threshold, and the suggested one."""
    figure, axis = _figure()
    best = curve.best
    axis.plot(curve.thresholds, curve.precision, color=_BLUE, label="precision")
    axis.plot(curve.thresholds, curve.recall, color=_VERMILION, label="recall")
    axis.plot(curve.thresholds, curve.f1, color="black", linewidth=2.5, label="F1")
    axis.axvline(curve.thresholds[best], color=_GRAY, linestyle="--", label=f"largest F1: {curve.thresholds[best]:.2f}")
    axis.set(xlabel="least score of a detection", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize=8)
    return _finished(figure)


def draw_calibration(calibration: Calibration) -> Figure:
    """The share of correct detections by score, above the number of detections."""
    figure = Figure(figsize=(5.5, 5), layout="constrained", dpi=110)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=_GRAY, linestyle="--", label="score = share that is correct")
    filled = calibration.counts > 0
    upper.plot(calibration.scores[filled], calibration.correct[filled], color=_BLUE, marker="o", label="this model")
    upper.set(ylabel="share that is correct", ylim=(0, 1.02))
    upper.legend(fontsize=8)
    count = len(calibration.counts)
    lower.bar((np.arange(count) + 0.5) / count, calibration.counts, width=0.9 / count, color=_BLUE)
    lower.set(xlabel="score", ylabel="detections", xlim=(0, 1))
    if calibration.counts.max(initial=0) > 0:
        lower.set_yscale("log")
    for axis in (upper, lower):
        _clean(axis)
    return _finished(figure)


def draw_error_types(lost: Mapping[str, float]) -> Figure:
    """Points of AP50 that errors of each type cost."""
    figure, axis = _figure(height=3)
    names = list(ERROR_TYPES)
    values = [lost[name] for name in names]
    bars = axis.barh([ERROR_TYPES[name][0] for name in names], values, color=_VERMILION)
    axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="AP50 lost (points)", xlim=(0, max(1.0, 1.15 * np.nanmax([*values, 0]))))
    return _finished(figure)


def draw_sizes(by_size: Mapping[str, Averages]) -> Figure:
    """AP and AR of small, medium and large objects."""
    figure, axis = _figure(height=3.5)
    place = np.arange(len(SIZES))
    for offset, name, label, color in ((-0.2, "ap", "AP", _BLUE), (0.2, "ar", "AR", _GRAY)):
        values = [getattr(by_size[size], name) for size in SIZES]
        bars = axis.bar(place + offset, np.nan_to_num(values), 0.38, color=color, label=label)
        axis.bar_label(bars, [f"{value:.1f}" if np.isfinite(value) else "none" for value in values], fontsize=9)
    axis.set(xticks=place, xticklabels=[f"{size} ({by_size[size].objects})" for size in SIZES], ylim=(0, 108))
    axis.set(xlabel="size (objects)", ylabel="percent")
    axis.legend(fontsize=8)
    return _finished(figure)


def draw_classes(by_class: Mapping[str, Averages]) -> Figure:
    """AP of each class, highest first; of many, the highest and the lowest."""
    order = sorted((name for name in by_class if by_class[name].objects), key=lambda name: -by_class[name].ap)
    if len(order) > _CLASSES_OF_BARS:
        order = order[: _CLASSES_OF_BARS // 3] + order[-(_CLASSES_OF_BARS - _CLASSES_OF_BARS // 3) :]
    figure, axis = _figure(height=1.2 + 0.28 * max(len(order), 3))
    for name, label, color in (("ap50", "AP50", _GRAY), ("ap", "AP", _BLUE)):
        bars = axis.barh(range(len(order)), [getattr(by_class[key], name) for key in order], color=color, label=label)
        if name == "ap50":
            axis.bar_label(bars, [f"AP {by_class[key].ap:.1f}" for key in order], padding=3, fontsize=8)
    axis.set(yticks=range(len(order)), yticklabels=[_short(name) for name in order], xlabel="percent", xlim=(0, 112))
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    return _finished(figure)


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """A confusion matrix as :func:`pair_detr.report.confusion.confusion_matrix` makes it.

    Colors are shares of a row. Of many classes, those with the most errors are drawn.
    """
    chosen = most_confused(matrix, _CLASSES_OF_MATRIX)
    chosen = [*chosen, len(class_names)]
    shown = matrix[np.ix_(chosen, chosen)]
    share = shown / np.maximum(shown.sum(1, keepdims=True), 1)
    side = 3.2 + 0.38 * len(chosen)
    figure = Figure(figsize=(side, side), layout="constrained", dpi=110)
    axis = figure.add_subplot()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.grid(False)
    for row, column in np.argwhere(shown > 0):
        color = "white" if share[row, column] > 0.5 else "black"
        axis.text(column, row, shown[row, column], ha="center", va="center", fontsize=8, color=color)
    names = [_short(class_names[index]) for index in chosen[:-1]]
    axis.set(xticks=range(len(chosen)), yticks=range(len(chosen)), xlabel="detected as", ylabel="is")
    axis.set_xticklabels([*names, "not detected"], rotation=60, ha="right", fontsize=8)
    axis.set_yticklabels([*names, "nothing"], fontsize=8)
    return _finished(figure)


def most_confused(matrix: np.ndarray, limit: int) -> list[int]:
    """At most ``limit`` classes, those in the most errors, in their order."""
    classes = len(matrix) - 1
    wrong = matrix - np.diag(np.diag(matrix))
    errors = wrong[:classes].sum(1) + wrong[:, :classes].sum(0)
    return sorted(np.argsort(-errors, kind="stable")[:limit].tolist())


def _figure(height: float = 4.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, height), layout="constrained", dpi=110)
    axis = figure.add_subplot()
    _clean(axis)
    return figure, axis


def _clean(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _finished(figure: Figure) -> Figure:
    set_fonts(figure)
    return figure


def _short(name: str) -> str:
    (short,) = drawable([name], _NAME_LENGTH)
    return short
