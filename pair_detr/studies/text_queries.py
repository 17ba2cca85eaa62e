"""What queries gain by knowing the vocabulary: ``python -m pair_detr.studies.text_queries``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pair_detr.data.datasets.shape_classes import HOLDOUTS
from pair_detr.studies.convergence import add_run_arguments, check_run_arguments, train_all
from pair_detr.studies.open_shapes_runs import (
    BOXES,
    RANDOM,
    REAL,
    TEXTS,
    Result,
    add_text_arguments,
    gain,
    load_words,
    plan_run,
    write_texts,
)
from pair_detr.tools.common import (
    add_overwrite_argument,
    describe_machine,
    markdown,
    output_file,
    parse,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.outputs import require_outputs, writing

logger = tool_logger("study_text_queries")

NONE = "none"
QUERIES = (NONE, "content", "position", "cross_attention")
# Often enough to see how fast base classes are learned.
_EVAL_PERIOD = 60

# What queries know, and rows of the classes.
Key = tuple[str, str]


def summarize(results: Mapping[Key, Sequence[Result]], level: float) -> str:
    """A table in Markdown of base and novel AP50, and of iterations to a base AP50 of ``level``.

    Differences are to the model with the same rows whose queries know nothing, seed by seed.
    """
    rows = []
    for (queries, texts), runs in results.items():
        base, novel = np.array([run.final for run in runs]).T
        reached = np.array([run.base.reached(level) for run in runs])
        row = [queries, texts, *map(_cell, (base, novel)), "-" if np.isnan(reached).any() else f"{reached.mean():.0f}"]
        control = results.get((NONE, texts))
        if queries == NONE or control is None:
            rows.append([*row, "", "", "", str(len(runs))])
            continue
        of_control = np.array([run.final for run in control]).T
        steps = np.array([run.base.reached(level) for run in control])
        row += [gain(own, other).at(1) for own, other in zip((base, novel), of_control, strict=True)]
        rows.append([*row, gain(reached, steps).at(0), str(len(runs))])
    headers = ["queries", "rows", "base AP50 (range)", "novel AP50 (range)", f"iterations to base {level:g}"]
    headers += ["base, change (95%)", "novel, change (95%)", "iterations, change (95%)", "seeds"]
    return markdown(rows, headers)


def _cell(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ({values.min():.1f}-{values.max():.1f})"


def draw(results: Mapping[Key, Sequence[Result]]) -> Figure:
    """AP50 of base and of novel classes by iteration, the mean over the seeds and their range."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    colors = {name: f"C{i}" for i, name in enumerate(QUERIES)}
    styles = dict(zip(TEXTS, ("-", "-.", ":", "--", (0, (1, 3))), strict=True))
    for axis, of in zip(axes, ("base", "novel"), strict=True):
        for (queries, texts), runs in results.items():
            curves = [getattr(run, of) for run in runs]
            values = np.stack([curve.values for curve in curves])
            label = f"{queries}, {texts} rows"
            axis.plot(curves[0].steps, values.mean(0), ls=styles[texts], color=colors[queries], label=label)
            axis.fill_between(curves[0].steps, values.min(0), values.max(0), color=colors[queries], alpha=0.12)
        axis.set(title=f"{of} classes", xlabel="iteration", ylabel="AP50 (percent)", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        FileNotFoundError, ValueError: text weights cannot be read.
        RuntimeError: a run failed.
    """
    parser = tool_parser(
        "Trains detectors on boxes of the open-vocabulary shapes, whose queries know the vocabulary in different ways, "
        "and compares how fast they learn and what they find of novel classes. A study that was interrupted goes on "
        "where it was. docs/studies/text_queries.md describes it.",
        "text_queries --texts unrelated --seeds 1",
        package="pair_detr.studies",
    )
    parser.add_argument("--holdout", choices=tuple(HOLDOUTS), default="composition", help="what is novel")
    parser.add_argument("--queries", nargs="+", choices=QUERIES, default=list(QUERIES), help="MODEL.CLIP.QUERIES")
    parser.add_argument("--masks", action="store_true", help="train masks as well, and compare the AP50 of these")
    parser.add_argument("--level", type=float, default=80.0, metavar="AP50", help="to count iterations to")
    add_text_arguments(parser, (REAL, RANDOM))
    add_run_arguments(parser)
    parser.set_defaults(seeds=[1, 2, 3, 4, 5], runs=Path("output/text_queries"))
    parser.add_argument(
        "--output", type=output_file(".png", ".svg"), default="text_queries.png", metavar="FILE", help="figure to write"
    )
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    check_run_arguments(parser, args)
    require_outputs([args.output], overwrite=args.overwrite)
    words = load_words(args)
    planned = {}
    for queries in args.queries:
        for texts in args.texts:
            files = [write_texts(texts, HOLDOUTS[args.holdout], words, x, args.runs / "texts") for x in args.seeds]
            options = ["MODEL.CLIP.QUERIES", queries, "TEST.EVAL_PERIOD", str(_EVAL_PERIOD)]
            options += ["MODEL.MASK_ON", str(args.masks), *args.opts]
            name = f"{queries} {texts}{' masks' * args.masks}"
            planned[queries, texts] = [
                plan_run(args.holdout, name, BOXES, seed, file, options)
                for seed, file in zip(args.seeds, files, strict=True)
            ]
    # A seed of all before the next one, so that what is there can be compared.
    by_seed = [entry for entries in zip(*planned.values(), strict=True) for entry in entries]
    train_all(by_seed, args.runs, args.jobs)
    task = "segm" if args.masks else "bbox"
    results = {
        key: [Result.read(args.runs / entry.folder, task) for entry in entries] for key, entries in planned.items()
    }
    with writing(args.output) as temporary:
        draw(results).savefig(temporary, dpi=90)
    logger.info("%s; %s\n%s", args.output, describe_machine("cpu"), summarize(results, args.level))


if __name__ == "__main__":
    run(main)
