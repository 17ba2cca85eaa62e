"""Times models and ways to run them against each other: ``python -m pair_detr.tools.benchmark``."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from pair_detr.analysis.backends import RUNTIMES, Backend
from pair_detr.analysis.comparison import Workload, compare
from pair_detr.analysis.flops import count_flops, module_costs
from pair_detr.analysis.matmul_rate import matmul_rate
from pair_detr.config.validation import check_config
from pair_detr.config_files import load_config
from pair_detr.engine.launch import configure_cpu
from pair_detr.tools.common import (
    add_overwrite_argument,
    describe_machine,
    image_size,
    markdown,
    run,
    tool_logger,
    tool_parser,
    without_data,
)
from pair_detr.utils.outputs import require_outputs, write_marked_json

logger = tool_logger("benchmark")


def _backend(text: str) -> Backend:
    try:
        return Backend.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def default_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of an image of 4:3 as the config resizes it."""
    short, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    width = min(round(short * 4 / 3), longest)
    return min(short, round(width * 3 / 4)), width


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Times inference or a training step of models, with random weights on random images, in several runtimes and "
        "precisions, turn by turn: the median, images a second, and the ratio to the time of transformers' model, or "
        "else of the first. Inference is all from images in the host's memory to boxes, scores and classes there.",
        "benchmark --config-files conditional_detr/r50 --backends torch torch:bf16 transformers --sizes 480x640",
        "benchmark --config-files conditional_detr/r50 r50 --mode training --batches 2",
        "benchmark --config-files r50 --modules",
    )
    parser.add_argument(
        "--config-files",
        nargs="+",
        default=["conditional_detr/r50", "r50", "detr/r50"],
        metavar="FILE",
        help="configs of the models to compare",
    )
    parser.add_argument("--mode", choices=("inference", "training"), default="inference", help="what to time")
    runtimes = "; ".join(f"{name}: {meaning}" for name, meaning in RUNTIMES.items())
    parser.add_argument(
        "--backends",
        nargs="+",
        type=_backend,
        default=[Backend("torch")],
        metavar="RUNTIME[:PRECISION]",
        help=f"ways to run each model, as torch or torch:bf16; {runtimes}, of the first config",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=image_size,
        metavar="HxW",
        help="in pixels; without it, that of a 4:3 image as the first config resizes it",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="images of a batch")
    parser.add_argument("--boxes", type=int, default=8, help="of an image, in training")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds, after 3 to warm up")
    parser.add_argument(
        "--modules", action="store_true", help="count parameters and operations of each module, and time nothing"
    )
    parser.add_argument("--depth", type=int, default=2, help="of the tree of modules in that table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the numbers to a JSON file")
    add_overwrite_argument(parser)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config options, as KEY VALUE ...")
    return parser


def _load(name: str, options: list[str]) -> CfgNode:
    cfg = load_config(name, options)
    check_config(cfg)
    return without_data(cfg)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def speed_table(rows: list[dict[str, Any]]) -> str:
    """The numbers of :func:`pair_detr.analysis.comparison.compare` in Markdown."""
    headers = ["config", "backend", "size", "batch", "median ms", "images/s", "ratio", "lowest-highest"]
    headers.append("% of matmul rate")
    is_training = "matcher_share" in rows[0]
    if is_training:
        headers += ["% in matcher", "activations (MiB)"]
    lines = []
    for row in rows:
        line = [row["config"], row["backend"], row["size"], row["batch"], f"{row['seconds'] * 1000:.1f}"]
        line += [f"{row['images_per_second']:.2f}", f"{row['ratio']:.3f}", f"{row['lowest']:.3f}-{row['highest']:.3f}"]
        line.append(_percent(row["matmul_share"]))
        if is_training:
            saved = row["saved_bytes"]
            line += [_percent(row["matcher_share"]), "" if saved is None else f"{saved / 2**20:.1f}"]
        lines.append(line)
    return markdown(lines, headers)


def modules_table(rows: list[dict[str, Any]]) -> str:
    """The numbers of :func:`pair_detr.analysis.flops.module_costs` in Markdown."""
    sizes = list(rows[0]["flops"])
    lines = []
    for row in rows:
        numbers = row["parameters"] / 1e6, row["trained"] / 1e6, *(row["flops"][size] / 1e9 for size in sizes)
        lines.append([row["module"] or "all", *(f"{number:.3f}" for number in numbers)])
    return markdown(lines, ["module", "parameters (M)", "trained (M)", *(f"GFLOPs {size}" for size in sizes)])


def _count(configs: dict[str, CfgNode], args: argparse.Namespace) -> dict[str, Any]:
    """Counts the modules of every model, and logs a table of each."""
    content = {}
    for name, cfg in configs.items():
        detector = build_model(cfg).eval().detector
        flops, uncounted = {}, Counter()
        for size in args.sizes:
            flops[size], operators = count_flops(detector, *size, len(cfg.MODEL.PIXEL_MEAN))
            uncounted |= operators
        rows = module_costs(detector, flops, args.depth)
        content[name] = {"modules": rows, "uncounted": uncounted}
        logger.info(
            "%s, inference of one image; an operation is a multiply-add\n%s\nNot counted, by number of calls: %s",
            name,
            modules_table(rows),
            ", ".join(f"{key.removeprefix('aten::')} {count}" for key, count in uncounted.most_common()) or "nothing",
        )
        if cfg.MODEL.MASK_ON:
            logger.info("The mask head is not among the operations: it runs for detected queries alone.")
    return {"models": content}


def _time(configs: dict[str, CfgNode], args: argparse.Namespace) -> dict[str, Any]:
    """Times every model, and logs a table."""
    device = next(iter(configs.values())).MODEL.DEVICE
    for backend in args.backends:
        backend.require(device, args.mode)
    rates = {precision: matmul_rate(device, precision) for precision in {b.precision for b in args.backends}}
    workload = Workload(args.mode, args.sizes, args.batches, args.boxes, args.repeats)
    rows = compare(configs, args.backends, workload, rates)
    machine = describe_machine(device)
    boxes = f", {args.boxes} boxes an image" if args.mode == "training" else ""
    products = ", ".join(f"{precision} {rate / 1e9:.3g}" for precision, rate in sorted(rates.items()))
    logger.info(
        "%s%s; %s, %d rounds; billions of multiply-adds a second in a product of matrices: %s\n%s",
        args.mode.capitalize(),
        boxes,
        machine,
        args.repeats,
        products,
        speed_table(rows),
    )
    return {"machine": machine, "mode": args.mode, "rounds": args.repeats, "matmul_rates": rates, "speed": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if min(*args.batches, args.repeats, args.depth) < 1 or args.boxes < 0:
        parser.error("--batches, --repeats and --depth must be 1 or more, --boxes 0 or more")
    if args.output:
        require_outputs([args.output], overwrite=args.overwrite)
    setup_logger(name="pair_detr")
    configure_cpu(1)
    configs = {name: _load(name, args.opts) for name in args.config_files}
    args.sizes = args.sizes or [default_size(next(iter(configs.values())))]
    for name, cfg in configs.items():
        for size in args.sizes if cfg.INPUT.FIXED_SIZE else ():
            if any(side > limit for side, limit in zip(size, cfg.INPUT.FIXED_SIZE, strict=True)):
                parser.error(f"--sizes {size[0]}x{size[1]} does not fit into INPUT.FIXED_SIZE of {name}")
    content = (_count if args.modules else _time)(configs, args)
    if args.output:
        write_marked_json(content, args.output)
        logger.info("Numbers: %s", args.output)


if __name__ == "__main__":
    run(main)
