"""Sums over all processes of a training."""

import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient; the host does not wait for it.

    Losses that are divided by it have the gradients of one process with the whole batch.
    """
    if comm.get_world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / comm.get_world_size()
