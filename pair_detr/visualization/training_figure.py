"""One figure of several trainings: AP, total loss and every term."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pair_detr.drawing.text import drawable, set_fonts
from pair_detr.visualization.training_curves import TOTAL, Curve, Published, Run, common_part, mean_and_range

_COLUMNS = 4
_TITLE_LENGTH = 120


def draw_training(
    groups: dict[str, list[Run]], published: Sequence[Published], title: str, metric: str, by_epoch: bool
) -> Figure:
    """Draws the mean of each group as a line, and the range of its seeds as a band; published curves,
    which need ``by_epoch``, are dashed.

    Raises:
        ValueError: the seeds of a run were evaluated at different iterations.
    """
    terms = sorted({name for runs in groups.values() for run in runs for name in run.losses} - {TOTAL})
    rows = math.ceil(len(terms) / _COLUMNS)
    figure = Figure(figsize=(14, 4.6 + 2.5 * rows), layout="constrained")
    figure.suptitle(*drawable([title], _TITLE_LENGTH))
    grid = figure.add_gridspec(1 + rows, _COLUMNS, height_ratios=[1.7, *[1] * rows])
    ap_axis = figure.add_subplot(grid[0, : _COLUMNS // 2])
    total_axis = figure.add_subplot(grid[0, _COLUMNS // 2 :])
    term_axes = {name: figure.add_subplot(grid[1 + i // _COLUMNS, i % _COLUMNS]) for i, name in enumerate(terms)}
    for index, (name, runs) in enumerate(groups.items()):
        label = _label(name) if len(runs) == 1 else f"{_label(name)} ({len(runs)} seeds)"
        scale = 1 / runs[0].epoch_length if by_epoch else 1.0
        color = f"C{index}"
        if ap := [_in_percent(run.ap) for run in runs if run.ap is not None]:
            _plot(ap_axis, ap, name, scale, color, label=label, marker=".")
        for axis, term in ((total_axis, TOTAL), *((axis, term) for term, axis in term_axes.items())):
            if curves := [run.losses[term] for run in runs if term in run.losses]:
                _plot(axis, common_part(curves), name, scale, color, label=label, linewidth=1)
    for index, curve in enumerate(published):
        color, label = f"C{len(groups) + index}", f"published: {_label(curve.name)}"
        ap_axis.plot(curve.ap.steps, _in_percent(curve.ap).values, "--", color=color, label=label)
        total_axis.plot(curve.loss.steps, curve.loss.values, "--", color=color, label=label)
    step = "epoch" if by_epoch else "iteration"
    ap_axis.set(title=f"{_label(metric)} (percent)", xlabel=step, ylim=(0, None))
    total_axis.set(title="total training loss", xlabel=step, yscale="log")
    for term, axis in term_axes.items():
        axis.set_title(_label(term), fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_ylim(bottom=0)
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        axis.set_xlim(left=0)
    if ap_axis.lines:
        ap_axis.legend(fontsize=8)
    else:
        ap_axis.text(0.5, 0.5, "no evaluations", transform=ap_axis.transAxes, ha="center")
        total_axis.legend(fontsize=8)
    set_fonts(figure)
    return figure


def _label(name: str) -> str:
    (text,) = drawable([name])
    # Matplotlib's legends leave out what begins with an underscore.
    return f" {text}" if text.startswith("_") else text


def _plot(axis: Axes, curves: Sequence[Curve], name: str, scale: float, color: str, **style: object) -> None:
    mean, low, high = mean_and_range(curves, name)
    axis.plot(mean.steps * scale, mean.values, color=color, **style)
    if len(curves) > 1:
        axis.fill_between(mean.steps * scale, low, high, color=color, alpha=0.2, linewidth=0)


def _in_percent(curve: Curve) -> Curve:
    return Curve(curve.steps, 100 * curve.values)
