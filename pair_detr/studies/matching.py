"""Compares ways to assign objects to queries on costs of training: ``python -m pair_detr.studies.matching``."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from pair_detr.checkpoint.weights import load_weights, read_weights
from pair_detr.data import register_from_config
from pair_detr.studies.assignment import METHODS, exact
from pair_detr.studies.training_costs import training_batches, training_costs
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    load_model_config,
    output_file,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.outputs import require_outputs, writing

logger = tool_logger("study_matching")

# Costs are fp32: sums that differ by less are equal.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Outcome:
    """How a method did on a number of problems.

    Attributes:
        valid: share of problems in which no query has two objects.
        optimal: share of problems with a valid assignment of the least cost.
        gap: mean cost above the least, an object, of the valid ones; NaN if there are none.
        changed: share of objects that got another query than in the exact assignment.
        microseconds: median CPU time of a problem, which other programs do not lengthen.
    """

    valid: float
    optimal: float
    gap: float
    changed: float
    microseconds: float


def judge(method_name: str, costs: Sequence[np.ndarray]) -> Outcome:
    """Runs a method of METHODS on every problem."""
    method = METHODS[method_name]
    valid, gaps, changed, seconds = [], [], [], []
    for cost in costs:
        start = time.thread_time()
        columns = method(cost)
        seconds.append(time.thread_time() - start)
        rows, best = np.arange(len(cost)), exact(cost)
        valid.append(len(np.unique(columns)) == len(columns))
        changed += (columns != best).tolist()
        if valid[-1]:
            gaps.append((cost[rows, columns].sum() - cost[rows, best].sum()) / len(cost))
    optimal = sum(gap < _TOLERANCE for gap in gaps) / len(costs)
    gap = float(np.mean(gaps)) if gaps else float("nan")
    return Outcome(float(np.mean(valid)), optimal, gap, float(np.mean(changed)), float(np.median(seconds) * 1e6))


def name_stages(files: Sequence[str]) -> list[str]:
    """Short names of checkpoints: the iteration, or "final"; their paths, where these are not unique."""
    names = [Path(file).stem.removeprefix("model_") for file in files]
    names = [str(int(name)) if name.isdigit() else name for name in names]
    return names if len(set(names)) == len(names) else [str(Path(file).with_suffix("")) for file in files]


def _draw(outcomes: dict[str, dict[str, Outcome]]) -> Figure:
    panels = {
        "missed": ("problems without a valid assignment\nof the least cost", lambda o: 1 - o.optimal),
        "changed": ("objects with another query\nthan the exact method's", lambda o: o.changed),
        "gap": ("cost above the least,\nan object (valid ones)", lambda o: o.gap),
        "microseconds": ("median CPU time of a problem\n(microseconds, log)", lambda o: o.microseconds),
    }
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels))
    stages = list(outcomes)
    for axis, (key, (title, value)) in zip(axes, panels.items(), strict=True):
        for index, method in enumerate(METHODS):
            heights = [value(outcomes[stage][method]) for stage in stages]
            axis.bar(np.arange(len(stages)) + (index - 1.5) * 0.2, heights, 0.2, label=method, color=f"C{index}")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(stages)), stages, fontsize=8)
        axis.set_xlabel("checkpoint", fontsize=8)
        if key in ("missed", "changed"):
            axis.yaxis.set_major_formatter("{x:.1%}")
        if key == "microseconds":
            axis.set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(METHODS), fontsize=9)
    return figure


def _table(outcomes: dict[str, dict[str, Outcome]]) -> str:
    rows = [
        [
            stage,
            method,
            f"{o.valid:.1%}",
            f"{o.optimal:.1%}",
            f"{o.changed:.1%}",
            f"{o.gap:.4f}",
            f"{o.microseconds:.0f}",
        ]
        for stage, methods in outcomes.items()
        for method, o in methods.items()
    ]
    headers = ["checkpoint", "method", "valid", "optimal", "objects changed", "gap per object", "microseconds"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool.

    Raises:
        FileNotFoundError, KeyError, ValueError, CheckpointError: the config, its data or a checkpoint cannot be used.
    """
    parser = tool_parser(
        "Computes the matching costs of training images at several stages of a training, and compares exact, greedy, "
        "auction and Sinkhorn assignment: validity, optimality gap, time. Writes a figure and prints a table. "
        "docs/studies/matching.md was made with it.",
        "matching --config-file quickstart --stages output/quickstart/pair_detr/model_0000199.pth "
        "output/quickstart/pair_detr/model_final.pth --output docs/studies/matching.png",
        package="pair_detr.studies",
    )
    parser.add_argument("--stages", nargs="+", required=True, metavar="FILE", help="checkpoints, early ones first")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="of the training set")
    parser.add_argument(
        "--output", type=output_file(".png", ".svg"), default="matching.png", metavar="FILE", help="PNG or SVG to write"
    )
    parser.add_argument("--dump", type=output_file(".npz"), metavar="FILE", help="also write the costs to a .npz file")
    add_overwrite_argument(parser)
    add_model_arguments(parser, weights=False)
    args = parser.parse_args(arguments)
    if args.images < 1:
        parser.error(f"--images {args.images}: it must be 1 or more")
    require_outputs([args.output], overwrite=args.overwrite)
    if args.dump:
        require_outputs([args.dump], "--dump", overwrite=args.overwrite)
    cfg = load_model_config(args)
    register_from_config(cfg)
    stages = name_stages(args.stages)
    weights = [read_weights(file) for file in args.stages]
    seed_all_rng(0)
    batches = training_batches(cfg, args.images)
    model = build_model(cfg)
    outcomes, dumped = {}, {}
    for stage, state in zip(tqdm(stages, "checkpoints", disable=None), weights, strict=True):
        load_weights(model, state, complete=True)
        costs = training_costs(model, batches)
        dumped |= {f"{stage}_{index}": cost for index, cost in enumerate(costs)}
        outcomes[stage] = {name: judge(name, costs) for name in METHODS}
    with writing(args.output) as temporary:
        _draw(outcomes).savefig(temporary, dpi=110)
    if args.dump:
        with writing(args.dump) as temporary:
            np.savez_compressed(temporary, **dumped)
    objects = [len(cost) for cost in costs]
    logger.info(
        "%s: %d problems a checkpoint, of %.1f objects (at most %d) and %d queries; %s, NumPy %s\n%s",
        args.output,
        len(costs),
        np.mean(objects),
        max(objects),
        costs[0].shape[1],
        platform.machine(),
        np.__version__,
        _table(outcomes),
    )


if __name__ == "__main__":
    run(main)
