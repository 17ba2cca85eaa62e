"""What a device can multiply, to compare with what a model makes of it."""

import numpy as np
import torch

from pair_detr.analysis.speed import PRECISIONS, measure

# Of the matrices: the rate of small ones is that of the memory.
_SMALLEST, _LARGEST = 256, 8192
_SECONDS = 0.005
_TRAINING_PASSES = 3  # A backward pass multiplies twice what the forward pass does.


def matmul_rate(device: str, precision: str, repeats: int = 10) -> float:
    """Multiply-adds a second of a product of square matrices, large enough for it to take some milliseconds.

    Args:
        device: where they are.
        precision: one of PRECISIONS.
        repeats: timed products, of which the median counts.
    """
    size = _SMALLEST
    while True:
        a, b = (torch.randn(size, size, device=device).to(PRECISIONS[precision] or torch.float32) for _ in range(2))
        seconds = float(np.median(measure([lambda a=a, b=b: a @ b], repeats, device)))
        if seconds >= _SECONDS or size >= _LARGEST:
            return size**3 / seconds
        size *= 2


def share_of_rate(flops: float, images: int, seconds: float, rate: float, training: bool) -> float:
    """The share of a rate that a model reaches.

    Args:
        flops: multiply-adds of the inference of one image, see :func:`pair_detr.analysis.flops.count_flops`.
        images: of a batch.
        seconds: that the batch takes.
        rate: multiply-adds a second.
        training: a training step counts as three inferences; branches that only training has do not count.
    """
    return flops * images * (_TRAINING_PASSES if training else 1) / seconds / rate
