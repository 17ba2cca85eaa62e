"""What image labels teach of classes without boxes: ``python -m pair_detr.studies.image_labels``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pair_detr.config_files import load_config
from pair_detr.data.datasets.shape_classes import HOLDOUTS
from pair_detr.studies.convergence import add_run_arguments, check_run_arguments, train_all
from pair_detr.studies.convergence_runs import PlannedRun
from pair_detr.studies.open_shapes_runs import (
    BOXES,
    LABELS,
    RANDOM,
    REAL,
    Result,
    add_text_arguments,
    gain,
    load_words,
    plan_run,
    write_texts,
)
from pair_detr.tools.common import describe_machine, markdown, parse, run, tool_logger, tool_parser

logger = tool_logger("study_image_labels")

# As many steps as with image labels, on boxes alone; and before both.
CONTROL, START = "boxes only", "start"
CHOICES = ("object_score", "objectness", "pair_score", "max_size", "first", "max_score", "min_loss")
# How a label chooses its query, rows of the classes, and the holdout.
Key = tuple[str, str, str]


def plan(holdout: str, choice: str, texts: str, seed: int, file: Path, start: Path, steps: int = 0) -> PlannedRun:
    """A training that continues from ``start``, with image labels or, as a control, without.

    Args:
        holdout, texts, seed, file: see :func:`plan_run`.
        choice: one of :data:`CHOICES`, or :data:`CONTROL`.
        start: weights to start from.
        steps: iterations; 0 is as many as :data:`LABELS` has.
    """
    options = ["MODEL.WEIGHTS", str(start), *_schedule(LABELS, steps)]
    config = BOXES if choice == CONTROL else LABELS
    if choice == CONTROL:
        options += ["SOLVER.BASE_LR", str(load_config(LABELS).SOLVER.BASE_LR)]
    else:
        options += ["MODEL.DETR.IMAGE_LABELS.LOSS", choice]
    return plan_run(holdout, f"{choice} {texts}", config, seed, file, options, "labels")


def _schedule(config: str, steps: int) -> list[str]:
    """Options for the schedule of ``config``, in so many steps; 0 is its own number."""
    solver = load_config(config).SOLVER
    drops = tuple(max(1, step * (steps or solver.MAX_ITER) // solver.MAX_ITER) for step in solver.STEPS)
    return ["SOLVER.MAX_ITER", str(steps or solver.MAX_ITER), "SOLVER.STEPS", str(drops)]


def summarize(results: Mapping[Key, Sequence[Result]]) -> str:
    """A table in Markdown of base and novel AP50; differences are to the control, seed by seed."""
    rows = []
    for (choice, texts, holdout), runs in results.items():
        base, novel = np.array([run.final for run in runs]).T
        row = [holdout, texts, choice, *(" / ".join(f"{x:.1f}" for x in of) for of in (novel, base))]
        control = results.get((CONTROL, texts, holdout))
        if choice in (CONTROL, START) or control is None:
            rows.append([*row, "", ""])
            continue
        of_control = np.array([run.final for run in control]).T
        rows.append([*row, gain(novel, of_control[1]).at(1), gain(base, of_control[0]).at(1)])
    headers = ["novel by", "rows", "label goes to", "novel AP50, by seed", "base AP50, by seed"]
    return markdown(rows, [*headers, "novel, change (95%)", "base, change (95%)"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        FileNotFoundError, ValueError: text weights cannot be read.
        RuntimeError: a run failed.
    """
    parser = tool_parser(
        "Trains a detector on boxes of the open-vocabulary shapes and continues with image labels of novel classes, "
        "which choose their query in different ways, and, as a control, with boxes alone for as many steps. A study "
        "that was interrupted goes on where it was.",
        "image_labels --holdout shape --texts unrelated --choices objectness --seeds 1",
        package="pair_detr.studies",
    )
    parser.add_argument(
        "--holdout", nargs="+", choices=tuple(HOLDOUTS), default=["shape", "color"], help="what is novel"
    )
    parser.add_argument(
        "--choices", nargs="+", choices=CHOICES, default=list(CHOICES), help="MODEL.DETR.IMAGE_LABELS.LOSS"
    )
    for stage, text in (("start", "on boxes alone"), ("label", "that continue from there")):
        parser.add_argument(
            f"--{stage}-steps", type=int, default=0, metavar="N", help=f"iterations {text}; 0 is the config's number"
        )
    add_text_arguments(parser, (REAL, RANDOM))
    add_run_arguments(parser)
    parser.set_defaults(runs=Path("output/image_labels"))
    args = parse(parser, arguments)
    check_run_arguments(parser, args)
    if min(args.start_steps, args.label_steps) < 0:
        parser.error("--start-steps and --label-steps must be 0 or more")
    words = load_words(args)
    starts: dict[Key, list[PlannedRun]] = {}
    ends: dict[Key, list[PlannedRun]] = {}
    for holdout in args.holdout:
        for texts in args.texts:
            for seed in args.seeds:
                file = write_texts(texts, HOLDOUTS[holdout], words, seed, args.runs / "texts")
                options = [*_schedule(BOXES, args.start_steps), *args.opts]
                start = plan_run(holdout, f"{START} {texts}", BOXES, seed, file, options)
                starts.setdefault((START, texts, holdout), []).append(start)
                weights = args.runs / start.folder / "model_final.pth"
                for choice in (CONTROL, *args.choices):
                    end = plan(holdout, choice, texts, seed, file, weights, args.label_steps)
                    end.options.extend(args.opts)
                    ends.setdefault((choice, texts, holdout), []).append(end)
    for planned in (starts, ends):
        train_all([entry for entries in planned.values() for entry in entries], args.runs, args.jobs)
    results = {
        key: [Result.read(args.runs / entry.folder) for entry in entries] for key, entries in (starts | ends).items()
    }
    logger.info("%s\n%s", describe_machine("cpu"), summarize(results))


if __name__ == "__main__":
    run(main)
