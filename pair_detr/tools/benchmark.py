"""Times training steps of variants against each other: ``python -m pair_detr.tools.benchmark``."""

import argparse
import logging
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from tqdm import tqdm

from pair_detr.config_files import load_config
from pair_detr.engine import build_optimizer
from pair_detr.engine.launch import configure_cpu
from pair_detr.tools.common import run, tool_parser, without_data
from pair_detr.variants import VARIANTS

# Run as a program, the module's own name is __main__, which no logger is set up for.
logger = logging.getLogger("pair_detr.tools.benchmark")


def make_batch(images: int, size: tuple[int, int], boxes: int, num_classes: int) -> list[dict[str, Any]]:
    """Random images with random boxes, as the training's mapper makes them.

    Args:
        images: number of images.
        size: height and width in pixels.
        boxes: number of boxes an image.
        num_classes: labels are below it.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    batch = []
    for _ in range(images):
        corners = torch.rand(boxes, 2, 2, generator=generator).sort(dim=1).values.flatten(1)
        instances = Instances(size)
        instances.gt_boxes = Boxes(corners * torch.tensor([width, height, width, height]))
        instances.gt_classes = torch.randint(num_classes, (boxes,), generator=generator)
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        batch.append({"image": image, "instances": instances})
    return batch


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


def measure(steps: Sequence[Callable[[], None]], repeats: int, device: str) -> np.ndarray:
    """Times the steps in turn, so that a drift of the machine's speed meets all alike.

    Returns:
        (repeats, len(steps)) seconds, warm-up left out.
    """
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    seconds = np.zeros((repeats + 2, len(steps)))
    for row in tqdm(seconds, desc="rounds", disable=None):
        for i, step in enumerate(steps):
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            row[i] = time.perf_counter() - start
    return seconds[2:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = tool_parser(
        "Times a training step, or inference, of the variants on random images: the median, and the ratio to the first "
        "variant's, round by round.",
        "benchmark --config-file r50 --images 2 --size 480 640 --variants conditional_detr pair_detr",
    )
    parser.add_argument("--config-file", default="configs/r50.yaml", metavar="FILE", help="config of the model")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(VARIANTS),
        default=["conditional_detr", "pair_detr", "detr"],
        help="to compare",
    )
    parser.add_argument("--inference", action="store_true", help="time inference rather than training")
    parser.add_argument("--images", type=int, default=2, help="of a batch")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width in pixels")
    parser.add_argument("--boxes", type=int, default=8, help="of an image")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds, after 2 to warm up")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config options, as KEY VALUE ...")
    args = parser.parse_args(arguments)
    if min(args.images, *args.size, args.repeats) < 1 or args.boxes < 0:
        parser.error("--images, --size and --repeats must be 1 or more, --boxes 0 or more")
    setup_logger(name="pair_detr")
    configure_cpu(1)

    steps = []
    for variant in args.variants:
        cfg = without_data(load_config(args.config_file, [*args.opts, "MODEL.DETR.VARIANT", variant]))
        batch = make_batch(args.images, tuple(args.size), args.boxes, cfg.MODEL.DETR.NUM_CLASSES)
        steps.append((inference_step if args.inference else training_step)(cfg, batch))
    seconds = measure(steps, args.repeats, cfg.MODEL.DEVICE)
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    rows = [
        [v, f"{s * 1000:.1f}", f"{r:.2f}"] for v, s, r in zip(args.variants, np.median(seconds, 0), ratios, strict=True)
    ]
    device = torch.cuda.get_device_name() if cfg.MODEL.DEVICE.startswith("cuda") else platform.machine()
    logger.info(
        "%s of %d images of %d x %d pixels, %d boxes each; %s, %d threads, torch %s, %d rounds\n%s",
        "Inference" if args.inference else "Training step",
        args.images,
        *args.size,
        args.boxes,
        device,
        torch.get_num_threads(),
        torch.__version__,
        args.repeats,
        tabulate(
            rows, ["variant", "median ms", f"ratio to {args.variants[0]}"], tablefmt="github", disable_numparse=True
        ),
    )


if __name__ == "__main__":
    run(main)
