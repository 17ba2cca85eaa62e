"""Memory and time that a model takes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pair_detr.tools.benchmark import measure

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> torch.autocast:
    """The context that computes in a precision of PRECISIONS."""
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype or torch.bfloat16, enabled=dtype is not None)


def saved_bytes(model: nn.Module, batch: list[dict[str, Any]], device: str, precision: str) -> int:
    """Bytes that a training step keeps for its backward pass, parameters and the batch left out.

    Args:
        model: a meta-architecture in training mode.
        batch: its input.
        device: where it is.
        precision: of PRECISIONS.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            # An address is not used again while something keeps it.
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(device, precision):
        sum(model(batch).values())
    return sum(sizes.values())


def inference_seconds(
    model: nn.Module, batches: Sequence[list[dict[str, Any]]], device: str, precision: str, repeats: int
) -> list[float]:
    """Median time of inference, of each batch; images come from the host, and boxes go back to it."""

    def step(batch: list[dict[str, Any]]) -> Callable[[], None]:
        @torch.inference_mode()
        def run() -> None:
            with autocast(device, precision):
                for output in model(batch):
                    output["instances"].to("cpu")

        return run

    return np.median(measure([step(batch) for batch in batches], repeats, device), axis=0).tolist()
