"""The choices of a recipe, each with its reason."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware

# Of a training step of ResNet-50 in bfloat16, for each million pixels of an image; fp32 needs twice as much. Measured:
# 6.4 GiB for 16 images of 800x1333 (docs/results.md).
_GIB_PER_MEGAPIXEL = 0.39
# What weights, their gradients and the optimizer's state take, and workspaces.
_GIB_FIXED = 3.0
# Of the free memory; images of a batch are padded to the largest.
_USABLE = 0.6
_SIZES = {"cpu": (240, 480), "cuda": (320, 800)}
_STEP = 32


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        weights: of a trained detector to start from; "" for those of a backbone alone.
        epochs: 0 chooses.
        batch: images of a step; 0 chooses.
    """

    weights: str = ""
    epochs: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Choice:
    """A value of a config's key, and why."""

    key: str
    value: Any
    reason: str


def choose(data: DataSummary, machine: Hardware, request: Request) -> list[Choice]:
    """A recipe.

    Args:
        data: the training data.
        machine: what trains.
        request: what is not to be chosen.
    """
    return [*_sizes(data, machine), *_network(data, request), *_schedule(data, machine, request), *_precision(machine)]


def short_side(data: DataSummary, machine: Hardware) -> int:
    """The shorter side of images for the network, in pixels."""
    smallest, largest = _SIZES[machine.device]
    own = min(data.height, data.width)
    return min(max(_STEP * round(own / _STEP), smallest), largest)


def _sizes(data: DataSummary, machine: Hardware) -> Iterator[Choice]:
    side = short_side(data, machine)
    longest = _STEP * math.ceil(side * max(data.height, data.width) / min(data.height, data.width) / _STEP)
    reason = f"half of the images are {data.width}x{data.height} or larger; {machine.name}"
    scales = (side,) if machine.device == "cpu" else tuple(range(max(side - 96, 160), side + 1, _STEP))
    yield Choice("INPUT.MIN_SIZE_TRAIN", scales, reason)
    yield Choice("INPUT.MAX_SIZE_TRAIN", longest, "images keep their aspect")
    yield Choice("INPUT.MIN_SIZE_TEST", side, "as in training")
    yield Choice("INPUT.MAX_SIZE_TEST", longest, "as in training")
    if side < _SIZES["cuda"][1]:
        yield Choice("INPUT.RESIZE_CROP.ENABLED", False, "its sizes are for images of COCO")


def _network(data: DataSummary, request: Request) -> Iterator[Choice]:
    if request.weights:
        # Its sizes are those of the weights.
        yield Choice("MODEL.WEIGHTS", request.weights, "asked for")
        return
    queries = min(max(100, 50 * math.ceil(3 * data.most_objects / 50)), 900)
    yield Choice("MODEL.DETR.NUM_QUERIES", queries, f"an image has up to {data.most_objects} objects")
    prior = min(max(round(data.objects / queries, 2), 0.01), 0.1)
    yield Choice("MODEL.DETR.LOSS.PRIOR_PROB", prior, f"{data.objects:.1f} objects an image for {queries} queries")
    box = min(max(round(data.box_side, 2), 0.02), 0.5)
    yield Choice("MODEL.DETR.DENSE.BOX_SIZE", box, "the median side of a box, as a part of the image")
    if data.images < 5000:
        yield Choice("MODEL.DETR.ENC_LAYERS", 2, f"{data.images} images do not teach more layers from nothing")
        yield Choice("MODEL.DETR.DEC_LAYERS", 3, "as above")
        yield Choice("MODEL.DETR.FFN_DIM", 512, "as above")


def batch_size(data: DataSummary, machine: Hardware, request: Request) -> tuple[int, str]:
    """Images of a step, and why."""
    if request.batch:
        return request.batch, "asked for"
    # A dozen steps an epoch at least.
    most = max(2, 2 ** int(math.log2(max(data.images // 12, 1))))
    if machine.device == "cpu":
        return min(4, most), "a CPU gains nothing from more"
    side = short_side(data, machine)
    megapixels = side**2 * max(data.height, data.width) / min(data.height, data.width) / 1e6
    image = _GIB_PER_MEGAPIXEL * megapixels * (1 if machine.has_bf16 else 2)
    fitting = max(1.0, (_USABLE * machine.memory - _GIB_FIXED) / image)
    return min(16, most, 2 ** int(math.log2(fitting))), f"fits into {machine.memory:.0f} GiB of the GPU's memory"


def _schedule(data: DataSummary, machine: Hardware, request: Request) -> Iterator[Choice]:
    batch, reason = batch_size(data, machine, request)
    yield Choice("SOLVER.IMS_PER_BATCH", batch, reason)
    # From the weights of a detector few epochs do; small sets need some hundred steps in any case.
    steps, least = (300, 5) if request.weights else (550, 10)
    epochs = request.epochs or min(max(least, math.ceil(steps * batch / data.images)), 50)
    why = "asked for" if request.epochs else f"{epochs * data.images // batch} steps of {batch} images"
    yield Choice("SOLVER.EPOCHS.MAX", epochs, why)
    yield Choice("SOLVER.EPOCHS.STEPS", (max(1, round(0.7 * epochs)),), "70% of the epochs at the full learning rate")
    yield Choice("SOLVER.EPOCHS.EVAL_PERIOD", max(1, epochs // 5), "about five evaluations")
    yield Choice("SOLVER.EPOCHS.CHECKPOINT_PERIOD", max(1, epochs // 5), "as often")
    rate = 1e-4 if request.weights else 5e-4 * min(1.0, math.sqrt(batch / 4))
    yield Choice("SOLVER.BASE_LR", rate, "for weights that know objects" if request.weights else f"for {batch} images")
    yield Choice(
        "SOLVER.WARMUP_ITERS", min(100, epochs * data.images // batch // 5), "a fifth of a short training at most"
    )


def _precision(machine: Hardware) -> Iterator[Choice]:
    if machine.has_bf16:
        yield Choice("SOLVER.AMP.ENABLED", True, f"{machine.name} computes bfloat16 faster")
