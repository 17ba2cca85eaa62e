"""The choices of a recipe, each with its reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware
from pair_detr.recipes.starting_point import Start
from pair_detr.utils.messages import counted

# All image sizes are multiples of it: the coarsest stride of the networks.
_STEP = 32
# Shorter side of the images on a CPU, and of the small network: less shows too little, also where images are smaller,
# and more takes too long.
_SIDES = (240, 480)
# Pixels of a small object: one and a half cells of the feature map, of the small network and of a detector with stride
# 32.
_SMALL_OBJECT, _SMALL_OBJECT_OF_DETECTOR = 24, 48
# Of a training step of ResNet-50 in bfloat16, for each million pixels of an image; fp32 needs twice as much. Measured:
# 6.4 GiB for 16 images of 800x1333 (docs/results.md).
_GIB_PER_MEGAPIXEL = 0.39
# What weights, their gradients and the optimizer's state take, and workspaces.
_GIB_FIXED = 2.0
# Of the memory that is free; the images of a batch are padded to the largest.
_USABLE = 0.7
# Images of a step, whatever fits: of a GPU and of a CPU, where larger batches only take longer.
_LARGEST_BATCH = {"cuda": 16, "cpu": 4}
# An epoch is to have so many steps.
_STEPS_PER_EPOCH = 12
# Steps of a whole training, and its fewest and most epochs: from a backbone and from a detector.
_STEPS, _EPOCHS = 900, (10, 100)
_STEPS_OF_DETECTOR, _EPOCHS_OF_DETECTOR = 600, (6, 50)
# Learning rates for batches of four images.
_RATE, _RATE_OF_DETECTOR = 5e-4, 5e-5
_FULL_RATE = 0.7
_WARMUP = 100
_EVALUATIONS = 5
_WORKERS = 4
_ASKED = "as on the command line"


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


def choose(
    data: DataSummary, machine: Hardware, start: Start, request: Request, given: Mapping[str, Any]
) -> list[Choice]:
    """What follows from the data, the machine and the weights.

    Args:
        data: to train on.
        machine: to train on.
        start: where the training starts.
        request: what is not to be chosen.
        given: config entries that are not to be chosen either; others follow from them.

    Raises:
        ValueError: there are fewer images than a batch is to have.
    """
    chooser = _Chooser(given)
    side, longest = _choose_images(chooser, data, machine, start)
    _choose_queries(chooser, data, start)
    batch = _choose_batch(chooser, data, machine, request, side * longest)
    _choose_schedule(chooser, data, start, request, batch)
    _choose_machine(chooser, machine, request)
    return chooser.choices


class _Chooser:
    """Collects choices.

    Attributes:
        choices: that were made.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.choices: list[Choice] = []

    def __call__(self, key: str, value: Any, reason: str) -> Any:
        """Chooses a value, unless one is given; returns the one that counts."""
        if key in self._given:
            return self._given[key]
        self.choices.append(Choice(key, value, reason))
        return value

    def get(self, key: str, default: Any) -> Any:
        """The given value; without one, the default."""
        return self._given.get(key, default)


def _choose_images(chooser: _Chooser, data: DataSummary, machine: Hardware, start: Start) -> tuple[int, int]:
    """The sides of the largest images of a batch, in pixels."""
    sizes = start.cfg.INPUT
    if start.fixes_sizes or (start.detects and machine.device != "cpu"):
        sides = chooser.get("INPUT.MIN_SIZE_TRAIN", sizes.MIN_SIZE_TRAIN)
        return max(sides), min(_longer_side(data, max(sides)), sizes.MAX_SIZE_TRAIN)
    smallest, largest = _SIDES
    small = _SMALL_OBJECT_OF_DETECTOR if start.detects else _SMALL_OBJECT
    needed = min(small / max(data.small_side, 1e-3), largest, data.short_side)
    side = 16 * round(max(needed, smallest) / 16)
    reason = f"objects of the class with the smallest ones have {side * data.small_side:.0f} pixels; more takes longer"
    sides = chooser("INPUT.MIN_SIZE_TRAIN", (side,), reason)
    why = "so that nearly all images keep that shorter side"
    longest = chooser("INPUT.MAX_SIZE_TRAIN", _longer_side(data, max(sides)), why)
    test = chooser("INPUT.MIN_SIZE_TEST", max(sides), "as in training")
    chooser("INPUT.MAX_SIZE_TEST", _longer_side(data, test), why if test != max(sides) else "as in training")
    if sizes.RESIZE_CROP.ENABLED:
        chooser("INPUT.RESIZE_CROP.ENABLED", False, "its sizes are for larger images")
    return max(sides), longest


def _longer_side(data: DataSummary, side: int) -> int:
    return _STEP * math.ceil(side * data.aspect / _STEP)


def _choose_queries(chooser: _Chooser, data: DataSummary, start: Start) -> None:
    if start.detects:
        # Those of the weights.
        return
    queries = min(max(100, 50 * math.ceil(2 * data.most_objects / 50)), 900)
    queries = chooser("MODEL.DETR.NUM_QUERIES", queries, f"an image has up to {counted(data.most_objects, 'object')}")
    prior = min(max(round(data.objects / queries, 2), 0.01), 0.1)
    chooser("MODEL.DETR.LOSS.PRIOR_PROB", prior, f"{data.objects:.1f} objects per image for {queries} queries")
    box = min(max(round(data.box_side, 2), 0.02), 0.5)
    chooser("MODEL.DETR.DENSE.BOX_SIZE", box, "the median side of a box, relative to its image")


def _choose_batch(chooser: _Chooser, data: DataSummary, machine: Hardware, request: Request, pixels: int) -> int:
    """Images of a step of all processes, of so many pixels each."""
    most = max(2, _power_of_two(data.images / _STEPS_PER_EPOCH / request.processes))
    limit = max(1, _LARGEST_BATCH["cuda"] // request.processes) if machine.device != "cpu" else _LARGEST_BATCH["cpu"]
    fitting = limit
    if machine.device != "cpu":
        image = _GIB_PER_MEGAPIXEL * pixels / 1e6 * (1 if machine.has_bf16 else 2)
        fitting = max(1, _power_of_two((_USABLE * machine.memory - _GIB_FIXED) / image))
    each, why = min(
        (limit, "more gains little"),
        (most, f"so that {counted(data.images, 'image')} make more steps"),
        (fitting, f"more may not fit into {machine.memory:.0f} GiB of memory"),
        key=lambda bound: bound[0],
    )
    if request.processes > 1:
        why += f"; {each} in each of {request.processes} processes"
    batch, why = (request.batch, _ASKED) if request.batch else (each * request.processes, why)
    batch = chooser("SOLVER.IMS_PER_BATCH", batch, why)
    if batch > data.images:
        raise ValueError(
            f"A step is to have {batch} images, and there are {data.images} to train on: give a smaller --batch."
        )
    return batch


def _choose_schedule(chooser: _Chooser, data: DataSummary, start: Start, request: Request, batch: int) -> None:
    from_detector = start.detects
    steps, (fewest, most) = (_STEPS_OF_DETECTOR, _EPOCHS_OF_DETECTOR) if from_detector else (_STEPS, _EPOCHS)
    total = chooser.get("SOLVER.MAX_ITER", 0)
    if not total:
        epochs = request.epochs or min(max(fewest, math.ceil(steps * batch / data.images)), most)
        total = max(1, epochs * data.images // batch)
        why = _ASKED if request.epochs else f"{counted(total, 'step')}, from {start.name}"
        epochs = chooser("SOLVER.EPOCHS.MAX", epochs, why)
        total = max(1, epochs * data.images // batch)
        decay = round(_FULL_RATE * epochs)
        why = "the rate falls in the last 30 percent" if decay else "an epoch keeps its rate"
        chooser("SOLVER.EPOCHS.STEPS", (decay,) if 0 < decay < epochs else (), why)
        period = max(1, epochs // _EVALUATIONS)
        chooser("SOLVER.EPOCHS.EVAL_PERIOD", period, f"{counted(max(1, epochs // period), 'evaluation')} in all")
        chooser("SOLVER.EPOCHS.CHECKPOINT_PERIOD", period, "as often as evaluations")
    # The square root suits AdamW and Muon.
    rate = float(f"{(_RATE_OF_DETECTOR if from_detector else _RATE) * math.sqrt(batch / 4):.2g}")
    chooser("SOLVER.BASE_LR", rate, f"for {counted(batch, 'image')} per step, from {start.name}")
    chooser("SOLVER.WARMUP_ITERS", min(_WARMUP, total // 5), "at most a fifth of the training")


def _choose_machine(chooser: _Chooser, machine: Hardware, request: Request) -> None:
    if machine.device == "cpu":
        chooser("DATALOADER.NUM_WORKERS", 0, "training takes all cores")
    else:
        workers = min(_WORKERS, machine.cores // request.processes)
        chooser("DATALOADER.NUM_WORKERS", workers, f"for {machine.cores} cores")
    if machine.has_bf16:
        chooser("SOLVER.AMP.ENABLED", True, f"{machine.name} computes in bfloat16")
    chooser("SEED", 0, "the same command makes the same choices at random")


def _power_of_two(number: float) -> int:
    """The largest one that is not above a number; 1 at least."""
    return 2 ** max(0, math.floor(math.log2(max(number, 1))))
