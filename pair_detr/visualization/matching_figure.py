"""One figure of a :class:`MatchingReport`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from pair_detr.analysis.matching_report import TERMS, MatchingReport
from pair_detr.drawing.text import drawable, set_fonts
from pair_detr.visualization.axes import draw_box, frame_image

_MAX_COLUMNS = 40
_TITLE_LENGTH = 120


def shown_queries(report: MatchingReport) -> np.ndarray:
    """Queries to show: the matched ones in the order of the objects, then those that are cheapest for any object."""
    matched = report.query[report.query >= 0]
    others = np.setdiff1d(np.arange(report.cost.shape[1]), matched)
    others = others[np.argsort(report.cost[:, others].min(0), kind="stable")]
    return np.concatenate((matched, others))[: max(_MAX_COLUMNS, len(matched))]


def draw_matching(image: np.ndarray, report: MatchingReport, names: Sequence[str], title: str) -> Figure:
    """Draws the objects of an (H, W, 3) uint8 RGB image, the cost matrix, and the terms of each match."""
    count = len(report.labels)
    names = drawable(names)
    labels = [f"{i + 1} {names[label]}" for i, label in enumerate(report.labels)]
    matrix_height = min(1.4 + 0.3 * count, 14)
    figure = Figure(figsize=(15, 5.2 + matrix_height), layout="constrained")
    figure.suptitle(*drawable([title], _TITLE_LENGTH))
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.6, matrix_height])
    picture, bars = top.subplots(1, 2, width_ratios=[1, 1.2])
    _draw_boxes(picture, image, report)
    _draw_terms(bars, report, labels)
    _draw_costs(bottom, report, labels)
    set_fonts(figure)
    return figure


def _draw_boxes(axis: Axes, image: np.ndarray, report: MatchingReport) -> None:
    axis.imshow(image)
    for index, (box, query) in enumerate(zip(report.truth, report.query, strict=True)):
        color = f"C{index % 10}"
        draw_box(axis, box, color, linewidth=2.5)
        label = {"facecolor": color, "pad": 1}
        axis.text(*box[:2], str(index + 1), color="white", va="bottom", fontsize=8, bbox=label)
        if query >= 0:
            draw_box(axis, report.boxes[query], color, linewidth=1.8, linestyle="--")
    frame_image(axis, image)
    axis.set_title("objects (solid) and the boxes of their queries (dashed)", fontsize=10)


def _draw_terms(axis: Axes, report: MatchingReport, labels: Sequence[str]) -> None:
    matched = np.flatnonzero(report.query >= 0)
    terms = report.terms[:, matched, report.query[matched]]
    starts = np.zeros((2, len(matched)))  # Positive terms are stacked to the right of 0, negative ones to the left.
    for index, (name, values) in enumerate(zip(TERMS, terms, strict=True)):
        side = (values < 0).astype(int)
        left = starts[side, np.arange(len(matched))]
        axis.barh(matched, values, left=left, label=name, color=f"C{index}")
        starts[side, np.arange(len(matched))] += values
    axis.plot(terms.sum(0), matched, "k|", markersize=14, markeredgewidth=2, label="total")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_title("cost of each match by its terms (weighted; less is better)", fontsize=10)
    axis.legend(fontsize=8)


def _draw_costs(part: SubFigure, report: MatchingReport, labels: Sequence[str]) -> None:
    queries = shown_queries(report)
    axis = part.subplots()
    shown = axis.imshow(report.cost[:, queries], cmap="viridis_r", aspect="auto", interpolation="nearest")
    part.colorbar(shown, ax=axis, label="cost", pad=0.01)
    for column, query in enumerate(queries):
        for row in np.flatnonzero(report.query == query):
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.2))
    cheapest = report.cost.argmin(1)
    position = {query: column for column, query in enumerate(queries)}
    dots = [(position[query], row) for row, query in enumerate(cheapest) if query in position]
    axis.plot(*zip(*dots, strict=True), "o", color="white", markeredgecolor="black", markersize=5, linestyle="none")
    axis.set_xticks(range(len(queries)), queries, fontsize=7, rotation=90)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    hidden = report.cost.shape[1] - len(queries)
    axis.set_xlabel("query" + (f" ({hidden} more are costlier)" if hidden else ""))
    axis.set_title(
        "cost of every object (row) with every query (column); red: the assignment, dot: the cheapest query of the row",
        fontsize=10,
    )
