"""Memory and time that a model takes."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn
from tqdm import tqdm

# Rounds before those that are timed: torch.compile compiles in the first, and a CUDA graph is recorded in the second.
WARM_UP = 3
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> torch.autocast:
    """The context that computes in a precision of PRECISIONS."""
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype or torch.bfloat16, enabled=dtype is not None)


def make_batch(
    images: int, size: tuple[int, int], boxes: int, num_classes: int, masks: bool = False, channels: int = 3
) -> list[dict[str, Any]]:
    """Random images with random boxes, as the training's mapper makes them.

    Args:
        masks: give every object an empty one, whose loss costs what that of any other does.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    batch = []
    for _ in range(images):
        corners = torch.rand(boxes, 2, 2, generator=generator).sort(dim=1).values.flatten(1)
        instances = Instances(size)
        instances.gt_boxes = Boxes(corners * torch.tensor([width, height, width, height]))
        instances.gt_classes = torch.randint(num_classes, (boxes,), generator=generator)
        if masks:
            instances.gt_masks = BitMasks(torch.zeros(boxes, height, width, dtype=torch.bool))
        image = torch.randint(256, (channels, height, width), dtype=torch.uint8, generator=generator)
        batch.append({"image": image, "instances": instances})
    return batch


def saved_bytes(forward: Callable[[], Any], excluded: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, on any device, even "meta".

    Those of the tensors in ``excluded``, such as parameters and inputs, do not count.
    """
    # Tensors of the meta device have no addresses, but all have storages.
    seen = {tensor.untyped_storage()._cdata for tensor in excluded}
    kept: list[torch.UntypedStorage] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            # No other storage takes its place while something keeps it.
            kept.append(storage)
        # Not the tensor: one that its own node saved, as of exp, would keep the graph, and the graph it.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept)


def training_bytes(model: nn.Module, batch: list[dict[str, Any]], device: str, precision: str) -> int:
    """Bytes that a training step keeps for its backward pass, parameters and the batch left out."""

    def forward() -> Tensor:
        with autocast(device, precision):
            return sum(model(batch).values())

    return saved_bytes(forward, (*model.parameters(), *model.buffers()))


def synchronizer(device: str) -> Callable[[], None]:
    """What waits until a device has done all that it was given."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def measure(steps: Sequence[Callable[[], Any]], repeats: int, device: str) -> np.ndarray:
    """Times the steps in turn, so that a drift of the machine's speed meets all alike.

    Returns:
        (repeats, len(steps)) seconds, warm-up left out.
    """
    synchronize = synchronizer(device)
    seconds = np.zeros((repeats + WARM_UP, len(steps)))
    for row in tqdm(seconds, desc="rounds", disable=None):
        for i, step in enumerate(steps):
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            row[i] = time.perf_counter() - start
    return seconds[WARM_UP:]


@dataclass(frozen=True)
class Timing:
    """What was measured of one step.

    Attributes:
        seconds: the median of all rounds.
        ratio: to the time of the yardstick in the same round, the median of all rounds.
        lowest: ratio of all rounds.
        highest: ratio of all rounds.
    """

    seconds: float
    ratio: float
    lowest: float
    highest: float


def summarize(seconds: np.ndarray, yardstick: int = 0) -> list[Timing]:
    """Medians of the (rounds, steps) seconds of :func:`measure`, and ratios to the column ``yardstick``."""
    ratios = seconds / seconds[:, yardstick : yardstick + 1]
    columns = np.median(seconds, 0), np.median(ratios, 0), ratios.min(0), ratios.max(0)
    return [Timing(*map(float, numbers)) for numbers in zip(*columns, strict=True)]
