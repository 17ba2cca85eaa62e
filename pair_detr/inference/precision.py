"""The type that weights are stored in, and what stays in fp32."""

import logging
import time
from collections.abc import Collection
from functools import cache
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from pair_detr.config.choices import PRECISIONS
from pair_detr.inference.batch_norm import is_batch_norm
from pair_detr.layers import FullPrecision

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Sides of the square matrices that are multiplied, about a millisecond's work.
_SIDES = {"cpu": 256, "cuda": 3072}
_REPEATS = 7
# Units for bf16 are at least twice as fast. Where there are none the times are alike, or bf16 is slower.
_FASTER = 0.7


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type to store weights in.

    Args:
        precision: one of :data:`pair_detr.config.choices.PRECISIONS`.
        device: that multiplies; it is measured for "auto", once in a process.

    Raises:
        ValueError: there is no such precision.
    """
    if precision == "auto":
        return _fastest(device)
    if precision not in DTYPES:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
    return DTYPES[precision]


@cache
def _fastest(device: torch.device) -> torch.dtype:
    """bf16 where matrices of it are multiplied faster."""
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    try:
        # In turns, so that what else the machine does slows down both.
        for _ in range(_REPEATS):
            for dtype, times in seconds.items():
                times.append(time_product(device, dtype))
    except RuntimeError as error:
        logger.info("Inference is in fp32, as %s does not multiply bf16: %s", device, error)
        return torch.float32
    # The first product of a type also sets up what multiplies it.
    fp32, bf16 = (median(times[1:]) for times in seconds.values())
    fastest = torch.bfloat16 if bf16 <= _FASTER * fp32 else torch.float32
    logger.info(
        "Inference is in %s: %s takes %.2f ms for a product in fp32 and %.2f ms in bf16.",
        "bf16" if fastest == torch.bfloat16 else "fp32",
        device,
        1e3 * fp32,
        1e3 * bf16,
    )
    return fastest


@torch.no_grad()
def time_product(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds that a product of two matrices takes, as in a linear layer."""
    side = _SIDES.get(device.type, _SIDES["cuda"])
    # Not random: drawing would change what the process draws next. Not zero, which some devices multiply faster.
    matrix = torch.linspace(-1, 1, side * side, device=device).view(side, side).to(dtype)
    _wait_for(device)
    start = time.perf_counter()
    F.linear(matrix, matrix)
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def store(module: nn.Module, dtype: torch.dtype, full: Collection[nn.Module] = ()) -> None:
    """Casts parameters and buffers in place, but for those of :class:`FullPrecision` modules and of batch norms.

    Args:
        full: modules that stay as they are, too.
    """
    if isinstance(module, FullPrecision) or is_batch_norm(module) or any(module is other for other in full):
        return
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))
    for child in module.children():
        store(child, dtype, full)
