"""Copies from the host to the device that the host does not wait for."""

import torch
from torch import Tensor


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; the tensor itself where it is there already.

    From pageable memory the driver may wait for all work queued on the device before it copies, hence the detour
    through pinned memory, which torch keeps for the next copy.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
