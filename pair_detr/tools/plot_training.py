"""Draws losses and AP of trainings, several seeds of each: ``python -m pair_detr.tools.plot_training``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pair_detr.tools.common import add_overwrite_argument, parse, run, tool_logger, tool_parser
from pair_detr.utils.file_search import find_files
from pair_detr.utils.outputs import require_outputs, writing
from pair_detr.visualization.training_curves import Published, Run, read_published, read_run, summarize
from pair_detr.visualization.training_figure import draw_training

logger = tool_logger("plot_training")


def read_groups(texts: Sequence[str], metric: str) -> dict[str, list[Run]]:
    """Runs by name, from "DIR" or "NAME=DIR,DIR".

    Raises:
        FileNotFoundError, ValueError: see :func:`pair_detr.visualization.training_curves.read_run`; or two runs have
            the same name.
    """
    groups: dict[str, list[Run]] = {}
    for text in texts:
        name, separator, folders = text.partition("=")
        if not separator or Path(text).is_dir():
            name, folders = text, text
        if name in groups:
            raise ValueError(f"{name} occurs twice: name every run once, or several as NAME=DIR,DIR.")
        groups[name] = [read_run(Path(folder).expanduser(), metric) for folder in folders.split(",")]
    return groups


def _read_published(paths: Sequence[Path]) -> list[Published]:
    files = [
        file for path in paths for file in (find_files(path, {".csv"}, recursive=False) if path.is_dir() else [path])
    ]
    if paths and not files:
        raise FileNotFoundError(f"--published: no .csv files in {', '.join(map(str, paths))}.")
    return [read_published(file) for file in files]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Draws AP, total loss and every loss term of trainings into one figure, as PNG and SVG, and prints how fast "
        "they got to an AP. Several seeds become a line with a band. The axis counts epochs where all runs know them, "
        "else iterations.",
        "plot_training 'Pair DETR=output/pair-1,output/pair-2' output/detr --published curves/ --output curves.png",
    )
    parser.add_argument("runs", nargs="+", metavar="DIR or NAME=DIR[,DIR...]", help="output folders; seeds in a row")
    parser.add_argument(
        "--published",
        nargs="+",
        type=Path,
        default=[],
        metavar="CSV",
        help="files, or folders of files, with the columns epoch, train_loss and ap (0 to 1)",
    )
    parser.add_argument("--threshold", type=float, default=50, help="AP to reach, in percent")
    parser.add_argument("--metric", default="bbox/AP", help="name in metrics.json, in percent there")
    parser.add_argument(
        "--epoch-length", type=float, metavar="N", help="iterations of an epoch, for runs that do not tell"
    )
    parser.add_argument("--title", default="", help="of the figure")
    parser.add_argument("--output", type=Path, default=Path("training.png"), help="the PNG; the SVG is next to it")
    add_overwrite_argument(parser)
    args = parse(parser, arguments)
    if args.epoch_length is not None and args.epoch_length <= 0:
        parser.error(f"--epoch-length {args.epoch_length}: it must be above 0")
    outputs = [args.output.with_suffix(suffix) for suffix in (".png", ".svg")]
    require_outputs(outputs, overwrite=args.overwrite)
    groups = read_groups(args.runs, args.metric)
    if args.epoch_length is not None:
        known = {"epoch_length": args.epoch_length}
        groups = {name: [dataclasses.replace(r, **known) for r in runs] for name, runs in groups.items()}
    published = _read_published(args.published)
    unknown = [name for name, runs in groups.items() if any(r.epoch_length is None for r in runs)]
    if published and unknown:
        raise ValueError(
            f"{', '.join(unknown)}: metrics.json has no epochs, which published curves are by. Give --epoch-length, "
            "the images of the training set over SOLVER.IMS_PER_BATCH."
        )
    figure = draw_training(groups, published, args.title, args.metric, by_epoch=not unknown)
    for output in outputs:
        with writing(output) as temporary:
            figure.savefig(temporary, dpi=110)
    logger.info("%s\n%s", " ".join(map(str, outputs)), summarize(groups, args.threshold))


if __name__ == "__main__":
    run(main)
