"""One figure of a :class:`MatchingReport`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pair_detr.analysis.matching_report import TERMS, MatchingReport

_MAX_COLUMNS = 40


def shown_queries(report: MatchingReport) -> np.ndarray:
    """Queries to show: the matched ones in the order of the objects, then those that are cheapest for any object."""
    matched = report.query[report.query >= 0]
    others = np.setdiff1d(np.arange(report.cost.shape[1]), matched)
    others = others[np.argsort(report.cost[:, others].min(0), kind="stable")]
    return np.concatenate((matched, others))[: max(_MAX_COLUMNS, len(matched))]


def draw_matching(image: np.ndarray, report: MatchingReport, names: Sequence[str], title: str) -> Figure:
    """Draws objects with their matched boxes, the cost matrix, and the terms of each match.

    Args:
        image: (H, W, 3) uint8 in RGB order.
        report: of that image, with at least one object.
        names: of the classes.
        title: of the figure.
    """
    count = len(report.labels)
    queries = shown_queries(report)
    labels = [f"{i + 1} {names[label]}" for i, label in enumerate(report.labels)]
    matrix_height = min(1.4 + 0.3 * count, 14)
    figure = Figure(figsize=(15, 5.2 + matrix_height), layout="constrained")
    figure.suptitle(title)
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.6, matrix_height])
    picture, bars = top.subplots(1, 2, width_ratios=[1, 1.2])
    colors = [f"C{i % 10}" for i in range(count)]

    picture.imshow(image)
    for index, (color, (x1, y1, x2, y2)) in enumerate(zip(colors, report.truth, strict=True)):
        picture.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=2.5))
        picture.text(
            x1, y1, str(index + 1), color="white", va="bottom", fontsize=8, bbox={"facecolor": color, "pad": 1}
        )
        if report.query[index] >= 0:
            x1, y1, x2, y2 = report.boxes[report.query[index]]
            picture.add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.8, linestyle="--")
            )
    picture.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5), xticks=[], yticks=[])
    picture.set_title("objects (solid) and the boxes of their queries (dashed)", fontsize=10)

    matched = np.flatnonzero(report.query >= 0)
    terms = report.terms[:, matched, report.query[matched]]
    starts = np.zeros((2, len(matched)))  # Positive terms are stacked to the right of 0, negative ones to the left.
    for index, (name, values) in enumerate(zip(TERMS, terms, strict=True)):
        side = (values < 0).astype(int)
        left = starts[side, np.arange(len(matched))]
        bars.barh(matched, values, left=left, label=name, color=f"C{index}")
        starts[side, np.arange(len(matched))] += values
    bars.plot(terms.sum(0), matched, "k|", markersize=14, markeredgewidth=2, label="total")
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_yticks(range(count), labels, fontsize=8)
    bars.set_ylim(count - 0.5, -0.5)
    bars.set_title("cost of each match by its terms (weighted; less is better)", fontsize=10)
    bars.legend(fontsize=8)

    axis = bottom.subplots()
    shown = axis.imshow(report.cost[:, queries], cmap="viridis_r", aspect="auto", interpolation="nearest")
    bottom.colorbar(shown, ax=axis, label="cost", pad=0.01)
    for column, query in enumerate(queries):
        for row in np.flatnonzero(report.query == query):
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.2))
    cheapest = report.cost.argmin(1)
    position = {query: column for column, query in enumerate(queries)}
    dots = [(position[query], row) for row, query in enumerate(cheapest) if query in position]
    axis.plot(*zip(*dots, strict=True), "o", color="white", markeredgecolor="black", markersize=5, linestyle="none")
    axis.set_xticks(range(len(queries)), queries, fontsize=7, rotation=90)
    axis.set_yticks(range(count), labels, fontsize=8)
    hidden = report.cost.shape[1] - len(queries)
    axis.set_xlabel("query" + (f" ({hidden} more are costlier)" if hidden else ""))
    axis.set_title(
        "cost of every object (row) with every query (column); red: the assignment, dot: the cheapest query of the row",
        fontsize=10,
    )
    return figure
