"""What a recipe has to know about the machine."""

import os
from dataclasses import dataclass

import torch

_GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """A machine to train on.

    Attributes:
        device: "cuda" or "cpu".
        name: of the device, for messages.
        cores: of the CPU, as many as the process may use.
        memory: of a GPU, what is free, in GiB; 0 for a CPU.
        has_bf16: whether a GPU computes in bfloat16 by itself.
    """

    device: str
    name: str
    cores: int
    memory: float = 0.0
    has_bf16: bool = False


def this_machine(device: str) -> Hardware:
    """The machine that the process runs on.

    Args:
        device: MODEL.DEVICE, such as "cpu", "cuda" or "cuda:1".
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.device(device).type != "cuda":
        return Hardware("cpu", "a CPU", cores)
    free, _ = torch.cuda.mem_get_info(device)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Hardware("cuda", torch.cuda.get_device_name(device), cores, free / _GIB, has_bf16)
