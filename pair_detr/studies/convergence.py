"""How many iterations detectors need: ``python -m pair_detr.studies.convergence``."""

import argparse
import contextlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from pair_detr import engine
from pair_detr.config_files import config_file, load_config
from pair_detr.studies.convergence_runs import DATASETS, SCHEDULES, VARIANTS, PlannedRun, plan
from pair_detr.tools.common import (
    add_overwrite_argument,
    markdown,
    output_file,
    parse,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.outputs import require_outputs, writing
from pair_detr.visualization.training_curves import Curve, Run, read_run

logger = tool_logger("study_convergence")

_FINAL = "model_final.pth"
# What a run is trained with.
_DESCRIPTION = "planned.yaml"
_LEVELS = (0.3, 0.5, 0.7)


def train(planned: PlannedRun, folder: Path) -> None:
    """Trains what is left of a run, with its output in ``folder``; one that is complete is left alone.

    Raises:
        ValueError: the folder has a run with another config, as of an earlier version.
    """
    description = load_config(planned.config, planned.options).dump()
    file = folder / _DESCRIPTION
    if folder.is_dir() and (not file.is_file() or file.read_text(encoding="utf-8") != description):
        raise ValueError("it has a run with another config: remove the folder, or choose another with --runs")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as temporary:
        temporary.write_text(description, encoding="utf-8")
    if (folder / _FINAL).is_file():
        return
    arguments = ["--config-file", str(config_file(planned.config)), "--resume", *planned.options]
    with (
        (folder / "output.txt").open("a", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        engine.run(engine.argument_parser().parse_args([*arguments, "OUTPUT_DIR", str(folder)]))


def train_all(runs: Sequence[PlannedRun], output: Path, jobs: int) -> None:
    """Trains several runs at a time, a thread each; the first error ends it, and what is done stays done.

    Raises:
        RuntimeError: a run failed; the message names its folder.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    # A process for each: no run sees the random numbers or the datasets of another. All inherit what is imported once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with (
        tqdm(total=len(runs), desc="runs", unit="run", disable=None) as bar,
        ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool,
    ):
        futures = {pool.submit(train, planned, output / planned.folder): planned for planned in runs}
        for future in as_completed(futures):
            folder = output / futures[future].folder
            # A training ends its process by SystemExit when it is interrupted or finds a fault of the user's.
            if error := future.exception():
                pool.shutdown(cancel_futures=True)
                raise RuntimeError(f"{folder}: {error}. See output.txt there; run the study again to go on.") from error
            bar.update()


def seconds_per_iteration(run: Run) -> float:
    """The median of a training's steps, without evaluations."""
    return float("nan") if run.seconds is None else float(np.median(run.seconds.values))


def summarize(results: dict[tuple[str, str, str], list[Run]]) -> str:
    """Tables in Markdown for each dataset: final AP, and iterations and minutes to given levels of AP."""
    tables = []
    for data in dict.fromkeys(key[0] for key in results):
        rows = []
        for (of_data, variant, schedule), runs in results.items():
            if of_data != data:
                continue
            final = np.array([100 * run.ap.values[-1] for run in runs])
            seconds = np.mean([seconds_per_iteration(run) for run in runs])
            row = [
                variant,
                schedule,
                str(runs[0].ap.steps[-1]),
                f"{final.mean():.1f} ({final.min():.1f}-{final.max():.1f})",
            ]
            for level in _LEVELS:
                steps = np.array([run.ap.reached(level) for run in runs])
                missed = np.isnan(steps).any()
                row.append("-" if missed else f"{steps.mean():.0f} ({steps.mean() * seconds / 60:.1f})")
            rows.append([*row, str(len(runs))])
        headers = ["", "schedule", "iterations", "final AP, mean (range)"]
        headers += [f"to AP {100 * level:.0f} (min)" for level in _LEVELS]
        tables.append(f"{DATASETS[data].title}\n\n{markdown(rows, [*headers, 'seeds'])}")
    return "\n\n".join(tables)


def draw(results: dict[tuple[str, str, str], list[Run]]) -> Figure:
    """AP by iteration, the mean over the seeds and their range; dashed and dotted the compressed schedules."""
    names = list(dict.fromkeys(key[0] for key in results))
    figure = Figure(figsize=(6.5 * len(names), 4.5), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    colors = {variant: f"C{i}" for i, variant in enumerate(dict.fromkeys(key[1] for key in results))}
    for axis, name in zip(axes, names, strict=True):
        for (data, variant, schedule), runs in results.items():
            if data != name:
                continue
            steps, values = _aligned([run.ap for run in runs])
            style = dict(zip(SCHEDULES, ("-", "--", ":"), strict=True))[schedule]
            axis.plot(steps, values.mean(0), style, color=colors[variant], label=f"{variant}, {schedule}")
            axis.fill_between(steps, values.min(0), values.max(0), color=colors[variant], alpha=0.15)
        axis.set(title=DATASETS[name].title, xlabel="iteration", ylabel="AP (percent)", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def _aligned(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Steps that all curves have, and the values there in percent, a row for each curve."""
    steps = sorted(set.intersection(*(set(curve.steps.tolist()) for curve in curves)))
    return np.array(steps), np.stack([100 * curve.values[np.isin(curve.steps, steps)] for curve in curves])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Raises:
        RuntimeError: a run failed.
        FileExistsError: a figure of the user would be replaced.
    """
    parser = tool_parser(
        "Trains detectors with whole and with compressed schedules, and compares how fast they learn. A study that was "
        "interrupted goes on where it was.",
        "convergence --data shapes --variants conditional_detr pair_detr --seeds 1 --jobs 2",
        package="pair_detr.studies",
    )
    parser.add_argument("--data", nargs="+", choices=DATASETS, default=["shapes"], help="datasets to train on")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what to compare")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES), help="their lengths")
    add_run_arguments(parser)
    parser.add_argument(
        "--output", type=output_file(".png", ".svg"), default="convergence.png", metavar="FILE", help="figure to write"
    )
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    check_run_arguments(parser, args)
    require_outputs([args.output], overwrite=args.overwrite)
    planned = plan(args.data, {name: VARIANTS[name] for name in args.variants}, args.schedules, args.seeds)
    train_all(planned, args.runs, args.jobs)
    results: dict[tuple[str, str, str], list[Run]] = {}
    for entry in planned:
        results.setdefault((entry.data, entry.variant, entry.schedule), []).append(read_run(args.runs / entry.folder))
    with writing(args.output) as temporary:
        draw(results).savefig(temporary, dpi=110)
    logger.info("%s (%d at a time)\n%s", args.output, args.jobs, summarize(results))


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """How a study trains: its seeds, how many runs at a time, and where they are kept."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="of each run")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; times are fair with 1 alone")
    parser.add_argument("--runs", type=Path, default=Path("output/convergence"), metavar="FOLDER", help="of the runs")


def check_run_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses numbers of :func:`add_run_arguments` that make no sense, as argparse does."""
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: it must be 1 or more")
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        parser.error("--seeds: each must be 0 or more, and given once")


if __name__ == "__main__":
    run(main)
