"""What each method adds to a short training: ``python -m pair_detr.studies.ablation``."""

from collections.abc import Mapping, Sequence

import numpy as np

from pair_detr.studies.convergence import add_run_arguments, check_run_arguments, train_all
from pair_detr.studies.convergence_runs import (
    BASELINE,
    METHODS,
    OURS,
    VARIANTS,
    ablations,
    alone,
    plan,
    without,
)
from pair_detr.tools.common import markdown, parse, run, tool_logger, tool_parser
from pair_detr.visualization.training_curves import read_run

logger = tool_logger("study_ablation")

_DATA, _SCHEDULE = "shapes", "third"


def summarize(final: Mapping[str, np.ndarray]) -> str:
    """A table in Markdown: each method alone, and left out, with the differences that it makes.

    Args:
        final: the AP in percent at the end, for each seed, by the name of the variant.
    """
    rows = [["all, or none", _cell(final[BASELINE]), "", _cell(final[OURS]), ""]]
    for name, method in METHODS.items():
        row = [name if method.off is not None else f"with {name}"]
        for variant, base in ((alone(name), BASELINE), (without(name), OURS)):
            values = final.get(variant)
            row += ["", ""] if values is None else [_cell(values), f"{values.mean() - final[base].mean():+.1f}"]
        if any(row[1:]):
            rows.append(row)
    return markdown(rows, ["method", "alone: AP (range)", "change", "left out: AP (range)", "change"])


def _cell(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ({values.min():.1f}-{values.max():.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        RuntimeError: a run failed.
    """
    parser = tool_parser(
        "Trains Conditional DETR with each method alone, and Pair DETR without it, in a third of the iterations, and "
        "compares their AP on generated shapes. A study that was interrupted goes on where it was.",
        "ablation --methods Muon 'second decoder' --seeds 1 --jobs 2",
        package="pair_detr.studies",
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what to turn on and off")
    add_run_arguments(parser)
    args = parse(parser, arguments)
    check_run_arguments(parser, args)
    names = {name for method in args.methods for name in (alone(method), without(method))}
    variants = {BASELINE: VARIANTS[BASELINE], OURS: VARIANTS[OURS]}
    variants |= {name: variant for name, variant in ablations().items() if name in names}
    planned = plan([_DATA], variants, [_SCHEDULE], args.seeds)
    train_all(planned, args.runs, args.jobs)
    final: dict[str, list[float]] = {}
    for entry in planned:
        final.setdefault(entry.variant, []).append(100 * read_run(args.runs / entry.folder).ap.values[-1])
    logger.info("%s", summarize({name: np.array(values) for name, values in final.items()}))


if __name__ == "__main__":
    run(main)
