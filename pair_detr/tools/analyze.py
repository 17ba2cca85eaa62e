"""What a model costs: ``python -m pair_detr.tools.analyze``."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.nn import parameter_count
from torch import nn
from tqdm import tqdm

from pair_detr.analysis.flops import count_flops
from pair_detr.analysis.speed import PRECISIONS, inference_seconds, make_batch, training_bytes
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    describe_machine,
    load_model_config,
    markdown,
    run,
    tool_logger,
    tool_parser,
    without_data,
)
from pair_detr.utils.outputs import require_outputs, write_marked_json

logger = tool_logger("analyze")

_BOXES = 8


def _size(text: str) -> tuple[int, int]:
    height, separator, width = text.partition("x")
    if not (separator and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HEIGHTxWIDTH, such as 800x1066")
    return int(height), int(width)


def default_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of an image of 4:3 as the config resizes it."""
    short, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    width = min(round(short * 4 / 3), longest)
    return min(short, round(width * 3 / 4)), width


def module_table(model: nn.Module, flops: dict[tuple[int, int], Counter[str]], depth: int) -> list[dict[str, Any]]:
    """Parameters and operations of the modules of a detector, to a depth of its tree (1: its own parts)."""
    parameters = parameter_count(model)
    rows = []
    for name, module in model.named_modules():
        if name.count(".") >= depth or not (parameters[name] or any(counts[name] for counts in flops.values())):
            continue
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        rows.append(
            {
                "module": name,
                "parameters": parameters[name],
                "trained": trained,
                "flops": {f"{h}x{w}": counts[name] for (h, w), counts in flops.items()},
            }
        )
    return rows


def _modules_table(rows: list[dict[str, Any]], sizes: Sequence[str]) -> str:
    lines = []
    for row in rows:
        numbers = row["parameters"] / 1e6, row["trained"] / 1e6, *(row["flops"][size] / 1e9 for size in sizes)
        lines.append([row["module"] or "all", *(f"{number:.3f}" for number in numbers)])
    return markdown(lines, ["module", "parameters (M)", "trained (M)", *(f"GFLOPs {size}" for size in sizes)])


def _speed_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        memory, milliseconds = f"{row['saved_bytes'] / 2**20:.1f}", f"{row['seconds'] * 1000:.1f}"
        case = row["size"], row["batch"], row["precision"]
        lines.append([*case, memory, milliseconds, f"{row['batch'] / row['seconds']:.2f}"])
    headers = ["size", "batch", "precision", "activations of a training step (MiB)", "inference (ms)", "images/s"]
    return markdown(lines, headers)


def _measure(model: nn.Module, cfg: CfgNode, sizes: Sequence[tuple[int, int]], args: argparse.Namespace) -> list[dict]:
    """Memory and time of every size, precision and batch size."""
    device = cfg.MODEL.DEVICE
    rows = []
    cases = [(size, precision) for size in sizes for precision in args.precisions]
    for size, precision in tqdm(cases, "speed", unit="case", disable=None):
        options = size, _BOXES, model.num_classes, cfg.MODEL.MASK_ON, len(cfg.MODEL.PIXEL_MEAN)
        batches = [make_batch(n, *options) for n in args.batches]
        seconds = inference_seconds(model.eval(), batches, device, precision, args.repeats)
        model.train()
        rows += [
            {
                "size": f"{size[0]}x{size[1]}",
                "batch": len(batch),
                "precision": precision,
                "saved_bytes": training_bytes(model, batch, device, precision),
                "seconds": second,
            }
            for batch, second in zip(batches, seconds, strict=True)
        ]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Counts parameters and operations of each module, and measures the memory of activations, latency and images a "
        "second by batch size and precision, on random images and random weights.",
        "analyze --config-file r50 --sizes 480x640 800x1066 --batches 1 4 --precisions fp32 bf16",
    )
    add_model_arguments(parser, weights=False)
    parser.add_argument(
        "--sizes", nargs="+", type=_size, metavar="HxW", help="in pixels; without it, the config's for a 4:3 image"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="images of a batch")
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=["fp32"], help="of the computation"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds, after 2 to warm up")
    parser.add_argument("--depth", type=int, default=2, help="of the tree of modules in the table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the numbers to a JSON file")
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    if min(*args.batches, args.repeats, args.depth) < 1:
        parser.error("--batches, --repeats and --depth must be 1 or more")
    if args.output:
        require_outputs([args.output], overwrite=args.overwrite)
    cfg = without_data(load_model_config(args))
    sizes = args.sizes or [default_size(cfg)]
    model = build_model(cfg).eval()
    flops, uncounted = {}, Counter()
    for size in sizes:
        flops[size], operators = count_flops(model.detector, *size, len(cfg.MODEL.PIXEL_MEAN))
        uncounted |= operators
    modules = module_table(model.detector, flops, args.depth)
    names = [f"{h}x{w}" for h, w in sizes]
    logger.info(
        "%s, inference of one image; an operation is a multiply-add\n%s\nNot counted, by number of calls: %s",
        args.config_file,
        _modules_table(modules, names),
        ", ".join(f"{name.removeprefix('aten::')} {count}" for name, count in uncounted.most_common()) or "nothing",
    )
    if cfg.MODEL.MASK_ON:
        logger.info("The mask head is not among the FLOPs: it runs for detected queries alone. Speed includes it.")
    speed = _measure(model, cfg, sizes, args)
    machine = describe_machine(cfg.MODEL.DEVICE)
    logger.info("%s; median of %d rounds\n%s", machine, args.repeats, _speed_table(speed))
    if args.output:
        content = {"machine": machine, "modules": modules, "uncounted": uncounted, "speed": speed}
        write_marked_json(content, args.output)
        logger.info("Numbers: %s", args.output)


if __name__ == "__main__":
    run(main)
