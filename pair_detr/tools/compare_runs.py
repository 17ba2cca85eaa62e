"""Compares trainings by their logs, several seeds of each: ``python -m pair_detr.tools.compare_runs``."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.utils.logger import setup_logger
from matplotlib.figure import Figure
from tabulate import tabulate

# Run as a program, the module's own name is __main__, which no logger is set up for.
logger = logging.getLogger("pair_detr.tools.compare_runs")

_METRIC = "bbox/AP"


@dataclass(frozen=True)
class Curve:
    """AP, 0..1, of one run after the given numbers of iterations."""

    iterations: np.ndarray
    ap: np.ndarray

    def reached(self, threshold: float) -> float:
        """Iterations to ``threshold``, linear between two evaluations; NaN if it was not reached."""
        above = np.flatnonzero(self.ap >= threshold)
        if not len(above):
            return float("nan")
        last = above[0]
        first = max(last - 1, 0)
        return float(np.interp(threshold, self.ap[first : last + 1], self.iterations[first : last + 1]))


def read_curve(folder: Path) -> Curve:
    """Reads the ``metrics.json`` of a training's output folder.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it has no evaluation, or holds two runs on top of each other.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {folder} is not the OUTPUT_DIR of a training.")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # Detectron2 writes the evaluation at the end of a training with the iteration after the last.
    length = 1 + max((row["iteration"] for row in rows if "total_loss" in row), default=sys.maxsize)
    points = [(min(row["iteration"] + 1, length), row[_METRIC] / 100) for row in rows if _METRIC in row]
    if not points:
        raise ValueError(f"{path} has no {_METRIC}: train with TEST.EVAL_PERIOD set and a data set in DATASETS.TEST.")
    iterations, ap = np.array(sorted(points)).T
    if len(np.unique(iterations)) < len(iterations):
        raise ValueError(f"{path} holds several runs: give each an OUTPUT_DIR of its own.")
    return Curve(iterations.astype(int), ap)


def summarise(groups: dict[str, list[Curve]], threshold: float) -> str:
    """A table in Markdown: iterations to ``threshold`` and final AP of each group, a value a seed and their mean."""
    rows = []
    for name, curves in groups.items():
        reached = [curve.reached(threshold) for curve in curves]
        final = [curve.ap[-1] for curve in curves]
        rows.append(
            [
                name,
                " / ".join("-" if np.isnan(x) else f"{x:.0f}" for x in reached),
                "not by all" if np.isnan(reached).any() else f"{np.mean(reached):.0f}",
                " / ".join(f"{x:.3f}" for x in final),
                f"{np.mean(final):.3f}",
            ]
        )
    headers = ["", f"iterations to AP {threshold:.2f}, by seed", "mean", "final AP, by seed", "mean"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def draw(groups: dict[str, list[Curve]], title: str, output: Path) -> None:
    """Writes a figure with the mean of each group as a line, and the range of its seeds as a band."""
    figure = Figure(figsize=(8, 5), layout="tight")
    axis = figure.subplots()
    for name, curves in groups.items():
        if any(not np.array_equal(curve.iterations, curves[0].iterations) for curve in curves):
            raise ValueError(f"The runs of {name} were evaluated at different iterations.")
        ap = np.stack([curve.ap for curve in curves])
        (line,) = axis.plot(curves[0].iterations, ap.mean(0), marker=".", label=f"{name} ({len(curves)} seeds)")
        axis.fill_between(curves[0].iterations, ap.min(0), ap.max(0), color=line.get_color(), alpha=0.2)
    axis.set(xlabel="iteration", ylabel="AP 0.50:0.95", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    temporary = output.with_suffix(".tmp")
    figure.savefig(temporary, format=output.suffix.lstrip(".") or "png", dpi=120)
    temporary.replace(output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_curve` and :func:`draw`.
    """
    parser = argparse.ArgumentParser(
        description="Draws AP by iteration of trainings and prints how fast they got there.",
        epilog="Example: compare_runs 'Pair DETR=output/pair-1,output/pair-2' 'DETR=output/detr-1' --output curves.png",
    )
    parser.add_argument("groups", nargs="+", metavar="NAME=DIR[,DIR...]", help="output folders, one a seed")
    parser.add_argument("--threshold", type=float, default=0.5, help="AP to reach, 0..1 (default: %(default)s)")
    parser.add_argument("--title", default="", help="of the figure")
    parser.add_argument("--output", type=Path, default=Path("comparison.png"), help="PNG or SVG (default: %(default)s)")
    args = parser.parse_args(arguments)
    setup_logger(name="pair_detr")
    groups = {}
    for group in args.groups:
        name, separator, folders = group.partition("=")
        if not separator:
            parser.error(f"{group!r} is not of the form NAME=DIR[,DIR...]")
        groups[name] = [read_curve(Path(folder)) for folder in folders.split(",")]
    draw(groups, args.title, args.output)
    logger.info("%s\n%s", args.output, summarise(groups, args.threshold))


if __name__ == "__main__":
    main()
