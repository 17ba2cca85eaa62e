"""Times detectors against each other, in training or inference: ``python -m pair_detr.tools.benchmark``."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from pair_detr.analysis.speed import make_batch, measure
from pair_detr.config_files import load_config
from pair_detr.engine import build_optimizer
from pair_detr.engine.launch import configure_cpu
from pair_detr.tools.common import describe_machine, markdown, parse, run, tool_logger, tool_parser, without_data

logger = tool_logger("benchmark")


def training_step(cfg: CfgNode, batch: list[dict[str, Any]]) -> Callable[[], None]:
    """A function that trains one step of the model of ``cfg``."""
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)

    def step() -> None:
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference_step(cfg: CfgNode, batch: list[dict[str, Any]]) -> Callable[[], None]:
    """A function that detects objects in a batch with the model of ``cfg``."""
    model = build_model(cfg).eval()

    @torch.no_grad()
    def step() -> None:
        model(batch)

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Times a training step, or inference, of several models on random images: the median, and the ratio to that of "
        "the first, round by round.",
        "benchmark --config-files conditional_detr/r50 r50 --images 2 --size 480 640",
    )
    parser.add_argument(
        "--config-files",
        nargs="+",
        default=["conditional_detr/r50", "r50", "detr/r50"],
        metavar="FILE",
        help="configs of the models to compare",
    )
    parser.add_argument("--inference", action="store_true", help="time inference rather than training")
    parser.add_argument("--images", type=int, default=2, help="of a batch")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width in pixels")
    parser.add_argument("--boxes", type=int, default=8, help="of an image")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds, after 2 to warm up")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config options, as KEY VALUE ...")
    args = parse(parser, arguments)
    if min(args.images, *args.size, args.repeats) < 1 or args.boxes < 0:
        parser.error("--images, --size and --repeats must be 1 or more, --boxes 0 or more")
    configure_cpu(1)

    steps = []
    for config_file in args.config_files:
        cfg = without_data(load_config(config_file, args.opts))
        num_classes, channels = cfg.MODEL.DETR.NUM_CLASSES, len(cfg.MODEL.PIXEL_MEAN)
        batch = make_batch(args.images, tuple(args.size), args.boxes, num_classes, cfg.MODEL.MASK_ON, channels)
        steps.append((inference_step if args.inference else training_step)(cfg, batch))
    seconds = measure(steps, args.repeats, cfg.MODEL.DEVICE)
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    rows = [
        [name, f"{median * 1000:.1f}", f"{ratio:.2f}"]
        for name, median, ratio in zip(args.config_files, np.median(seconds, 0), ratios, strict=True)
    ]
    logger.info(
        "%s of %d images of %d x %d pixels, %d boxes each; %s, %d rounds\n%s",
        "Inference" if args.inference else "Training step",
        args.images,
        *args.size,
        args.boxes,
        describe_machine(cfg.MODEL.DEVICE),
        args.repeats,
        markdown(rows, ["config", "median ms", "ratio to the first"]),
    )


if __name__ == "__main__":
    run(main)
