"""What a recipe has to know of the machine."""

import os
from dataclasses import dataclass

import torch

_GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """A machine to train on.

    Attributes:
        device: "cuda" or "cpu".
        memory: of the GPU, free, in GiB; 0 on a CPU.
        cores: that the process may use.
        has_bf16: whether the GPU computes bfloat16 by itself.
        name: for messages.
    """

    device: str
    memory: float
    cores: int
    has_bf16: bool
    name: str


def this_machine() -> Hardware:
    """The machine that the process runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not torch.cuda.is_available():
        return Hardware("cpu", 0.0, cores, has_bf16=False, name=f"{cores} CPU cores")
    free, _ = torch.cuda.mem_get_info()
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Hardware("cuda", free / _GIB, cores, has_bf16, torch.cuda.get_device_name())
