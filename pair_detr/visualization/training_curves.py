"""Losses and AP of trainings, from the ``metrics.json`` that they leave behind, and of published ones."""

import csv
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from pair_detr.utils.text_files import read_text

logger = logging.getLogger(__name__)

TOTAL = "total_loss"
_PUBLISHED_COLUMNS = ("epoch", "train_loss", "ap")


@dataclass(frozen=True)
class Curve:
    """Values of one run after the given numbers of iterations, or epochs."""

    steps: np.ndarray
    values: np.ndarray

    def reached(self, threshold: float) -> float:
        """Steps to ``threshold``, linear between two points; NaN if it was not reached."""
        above = np.flatnonzero(self.values >= threshold)
        if not len(above):
            return float("nan")
        last = above[0]
        first = max(last - 1, 0)
        return float(np.interp(threshold, self.values[first : last + 1], self.steps[first : last + 1]))


@dataclass(frozen=True)
class Run:
    """A training: AP (0 to 1) and weighted losses, "total_loss" among them, by iteration; iterations of an epoch, and
    seconds of an iteration, if known.
    """

    ap: Curve | None
    losses: dict[str, Curve]
    epoch_length: float | None
    seconds: Curve | None = None


@dataclass(frozen=True)
class Published:
    """Curves of somebody else's training: AP, 0..1, and loss by epoch."""

    name: str
    ap: Curve
    loss: Curve


def read_run(folder: Path, metric: str = "bbox/AP") -> Run:
    """Reads the ``metrics.json`` of a training's output folder, where ``metric``, plotted as AP, is in percent.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it has neither losses nor evaluations, or cannot be understood.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {folder} is not the OUTPUT_DIR of a training.")
    rows = _read_rows(path)
    losses = {
        name: _curve([(row["iteration"] + 1, _number(row[name])) for row in rows if name in row])
        for name in sorted({key for row in rows for key in row if key.startswith("loss_") or key == TOTAL})
    }
    # Detectron2 writes the evaluation at the end of a training with the iteration after the last.
    length = 1 + max((row["iteration"] for row in rows if TOTAL in row), default=sys.maxsize)
    points = [(min(row["iteration"] + 1, length), _number(row[metric]) / 100) for row in rows if metric in row]
    if not points and not losses:
        raise ValueError(f"{path} has neither losses nor {metric}: train for at least 20 iterations.")
    ap = None
    if points:
        ap = _curve(points)
    else:
        logger.warning("%s has no %s: train with TEST.EVAL_PERIOD set and a dataset in DATASETS.TEST.", path, metric)
    lengths = [(row["iteration"] + 1) / row["epoch"] for row in rows if row.get("epoch")]
    times = [(row["iteration"] + 1, row["time"]) for row in rows if "time" in row]
    return Run(ap, losses, float(np.median(lengths)) if lengths else None, _curve(times) if times else None)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            # The last line of a training that is running, or was killed, may be incomplete.
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: {error}. Remove the line.") from error
    return rows


def _number(value: float | None) -> float:
    """JSON has null for what is NaN."""
    return float("nan") if value is None else value


def _curve(points: Sequence[tuple[int, float]]) -> Curve:
    """Points in the order of the file; a resumed run replaces what came after its checkpoint."""
    kept: list[tuple[int, float]] = []
    for step, value in points:
        while kept and kept[-1][0] >= step:
            kept.pop()
        kept.append((step, value))
    steps, values = np.array(kept).T
    return Curve(steps.astype(int), values)


def read_published(path: Path) -> Published:
    """Reads a CSV file with the columns epoch, train_loss and ap (0..1); others are ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a value is no number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--published: {path} does not exist: name a CSV file, or a folder of them.")
    reader = csv.DictReader(read_text(path).splitlines())
    if missing := [name for name in _PUBLISHED_COLUMNS if name not in (reader.fieldnames or ())]:
        raise ValueError(f"{path} has no column {', '.join(missing)}: it needs {', '.join(_PUBLISHED_COLUMNS)}.")
    try:
        rows = [[float(row[name]) for name in _PUBLISHED_COLUMNS] for row in reader]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}. Correct the line.") from error
    if not rows:
        raise ValueError(f"{path} has no lines: replace the file.")
    epoch, loss, ap = np.array(rows).T
    # Epoch 0 is the first; its values were measured at its end.
    return Published(path.stem.replace("_", " "), Curve(epoch + 1, ap), Curve(epoch + 1, loss))


def mean_and_range(curves: Sequence[Curve], name: str) -> tuple[Curve, np.ndarray, np.ndarray]:
    """Mean, least and greatest value over the seeds of a run; a ValueError unless all have the same steps."""
    if any(not np.array_equal(curve.steps, curves[0].steps) for curve in curves):
        raise ValueError(f"The runs of {name} were evaluated at different iterations: plot them apart.")
    values = np.stack([curve.values for curve in curves])
    return Curve(curves[0].steps, values.mean(0)), values.min(0), values.max(0)


def common_part(curves: Sequence[Curve]) -> list[Curve]:
    """The curves at the steps that all have."""
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    return [Curve(steps, curve.values[np.isin(curve.steps, steps)]) for curve in curves]


def summarize(groups: dict[str, list[Run]], threshold: float) -> str:
    """A table in Markdown: iterations to ``threshold`` and final AP of each group, by seed and as mean, in percent."""
    rows = []
    for name, runs in groups.items():
        curves = [run.ap for run in runs if run.ap is not None]
        if not curves:
            rows.append([name, *["-"] * 4])
            continue
        reached = [curve.reached(threshold / 100) for curve in curves]
        final = [100 * curve.values[-1] for curve in curves]
        rows.append(
            [
                name,
                " / ".join("-" if np.isnan(x) else f"{x:.0f}" for x in reached),
                "not reached" if np.isnan(reached).any() else f"{np.mean(reached):.0f}",
                " / ".join(f"{x:.1f}" for x in final),
                f"{np.mean(final):.1f}",
            ]
        )
    headers = ["", f"iterations to AP {threshold:g}, by seed", "mean", "final AP, by seed", "mean"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)
