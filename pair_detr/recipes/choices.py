"""The choices of a recipe, each with its reason."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware
from pair_detr.recipes.starting_point import Start

# All image sizes are multiples of it: the coarsest stride of the networks.
_STEP = 32
# Shorter side of the images on a CPU: less shows too little, also where images are smaller, and more takes too long.
_CPU_SIDES = (240, 480)
# Pixels of a small object, one and a half cells of a feature map with stride 16.
_SMALL_OBJECT = 24
# Of a training step of ResNet-50 in bfloat16, for each million pixels of an image; fp32 needs twice as much. Measured:
# 6.4 GiB for 16 images of 800x1333 (docs/results.md).
_GIB_PER_MEGAPIXEL = 0.39
# What weights, their gradients and the optimizer's state take, and workspaces.
_GIB_FIXED = 2.0
# Of the memory that is free; the images of a batch are padded to the largest.
_USABLE = 0.7
_LARGEST_BATCH = 16
# An epoch has at least so many steps.
_STEPS_PER_EPOCH = 12
# Steps of a whole training, and its fewest and most epochs: from a backbone and from a detector.
_STEPS, _EPOCHS = 900, (10, 100)
_STEPS_OF_DETECTOR, _EPOCHS_OF_DETECTOR = 600, (6, 50)
# Learning rates for batches of four images.
_RATE, _RATE_OF_DETECTOR = 5e-4, 5e-5
_EVALUATIONS = 5


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        weights: to start from: of a detector, as MODEL.WEIGHTS, or of the small network's backbone; "" chooses, and
            :data:`pair_detr.recipes.starting_point.NO_WEIGHTS` starts from random ones.
        epochs: 0 chooses.
        batch: images of a step, of all processes together; 0 chooses.
        processes: that train together.
    """

    weights: str = ""
    epochs: int = 0
    batch: int = 0
    processes: int = 1


@dataclass(frozen=True)
class Choice:
    """A config entry, and why it has its value."""

    key: str
    value: Any
    reason: str


def choose(data: DataSummary, machine: Hardware, start: Start, request: Request) -> list[Choice]:
    """What follows from the data, the machine and the weights."""
    return [
        *_choose_images(data, machine, start),
        *_choose_queries(data, start),
        *_choose_schedule(data, machine, start, request),
        *_choose_machine(machine, request),
    ]


def _choose_images(data: DataSummary, machine: Hardware, start: Start) -> Iterator[Choice]:
    if start.fixes_sizes or (start.detects and machine.device != "cpu"):
        return
    side, reason = _short_side(data)
    longest = _longer_side(data, side)
    yield Choice("INPUT.MIN_SIZE_TRAIN", (side,), reason)
    yield Choice("INPUT.MAX_SIZE_TRAIN", longest, f"half of the images are {data.width}x{data.height} or larger")
    yield Choice("INPUT.MIN_SIZE_TEST", side, "as in training")
    yield Choice("INPUT.MAX_SIZE_TEST", longest, "as in training")
    if start.cfg.INPUT.RESIZE_CROP.ENABLED:
        yield Choice("INPUT.RESIZE_CROP.ENABLED", False, "its sizes are for larger images")


def _short_side(data: DataSummary) -> tuple[int, str]:
    smallest, largest = _CPU_SIDES
    needed = _SMALL_OBJECT / max(data.small_side, 1e-3)
    own = min(data.height, data.width)
    side = 16 * round(max(min(needed, largest, own), smallest) / 16)
    pixels = side * data.small_side
    return side, f"objects of the class with the smallest ones then have {pixels:.0f} pixels; more takes longer"


def _longer_side(data: DataSummary, side: int) -> int:
    return _STEP * math.ceil(side * max(data.height, data.width) / min(data.height, data.width) / _STEP)


def _choose_queries(data: DataSummary, start: Start) -> Iterator[Choice]:
    if start.detects:
        # Those of the weights.
        return
    queries = min(max(100, 50 * math.ceil(2 * data.most_objects / 50)), 900)
    yield Choice("MODEL.DETR.NUM_QUERIES", queries, f"an image has up to {data.most_objects} objects")
    prior = min(max(round(data.objects / queries, 2), 0.01), 0.1)
    yield Choice("MODEL.DETR.LOSS.PRIOR_PROB", prior, f"{data.objects:.1f} objects per image for {queries} queries")
    box = min(max(round(data.box_side, 2), 0.02), 0.5)
    yield Choice("MODEL.DETR.DENSE.BOX_SIZE", box, "the median side of a box, relative to its image")


def _choose_batch(data: DataSummary, machine: Hardware, start: Start, request: Request) -> tuple[int, str]:
    """Images of a step, and why."""
    if request.batch:
        return request.batch, "as on the command line"
    most = max(2, _power_of_two(data.images / _STEPS_PER_EPOCH / request.processes))
    if machine.device == "cpu":
        each, reason = min(4, most), "a CPU computes no more of them at once"
    else:
        side = max(start.cfg.INPUT.MIN_SIZE_TRAIN)
        image = _GIB_PER_MEGAPIXEL * side * _longer_side(data, side) / 1e6 * (1 if machine.has_bf16 else 2)
        fitting = max(1, _power_of_two((_USABLE * machine.memory - _GIB_FIXED) / image))
        each = min(_LARGEST_BATCH // min(request.processes, _LARGEST_BATCH), most, fitting)
        reason = f"{each} fit into {machine.memory:.0f} GiB of a GPU"
    if each == most:
        reason = f"with {data.images} images, an epoch has a dozen steps"
    return each * request.processes, reason + (f"; {request.processes} processes" if request.processes > 1 else "")


def _choose_schedule(data: DataSummary, machine: Hardware, start: Start, request: Request) -> Iterator[Choice]:
    batch, reason = _choose_batch(data, machine, start, request)
    yield Choice("SOLVER.IMS_PER_BATCH", batch, reason)
    steps, (fewest, most) = (_STEPS_OF_DETECTOR, _EPOCHS_OF_DETECTOR) if start.detects else (_STEPS, _EPOCHS)
    epochs = request.epochs or min(max(fewest, math.ceil(steps * batch / data.images)), most)
    total = max(1, epochs * data.images // batch)
    why = "as on the command line" if request.epochs else f"{total} steps, from {start.name}"
    yield Choice("SOLVER.EPOCHS.MAX", epochs, why)
    yield Choice("SOLVER.EPOCHS.STEPS", (max(1, round(0.7 * epochs)),), "the rate falls in the last 30 percent")
    period = max(1, epochs // _EVALUATIONS)
    yield Choice("SOLVER.EPOCHS.EVAL_PERIOD", period, "some five evaluations")
    yield Choice("SOLVER.EPOCHS.CHECKPOINT_PERIOD", period, "as often as evaluations")
    # The square root suits AdamW and Muon.
    rate = float(f"{(_RATE_OF_DETECTOR if start.detects else _RATE) * math.sqrt(batch / 4):.2g}")
    yield Choice("SOLVER.BASE_LR", rate, f"for {batch} images per step, from {start.name}")
    yield Choice("SOLVER.WARMUP_ITERS", min(100, total // 5), "at most a fifth of the training")


def _choose_machine(machine: Hardware, request: Request) -> Iterator[Choice]:
    workers = 0 if machine.device == "cpu" else min(4, machine.cores // request.processes)
    reason = "training takes all cores" if machine.device == "cpu" else f"for {machine.cores} cores"
    yield Choice("DATALOADER.NUM_WORKERS", workers, reason)
    if machine.has_bf16:
        yield Choice("SOLVER.AMP.ENABLED", True, f"{machine.name} computes in bfloat16")
    yield Choice("SEED", 0, "the same command makes the same choices at random")


def _power_of_two(number: float) -> int:
    """The largest one that is not above a number; 1 at least."""
    return 2 ** max(0, math.floor(math.log2(max(number, 1))))
