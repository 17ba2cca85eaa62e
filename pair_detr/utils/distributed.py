"""Sums over all processes of a training."""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def mean_over_processes(value: Tensor, counts: bool = True, *, minimum_sum: float) -> Tensor:
    """Mean of a tensor over the processes in which it counts, without gradient; the host does not wait for it.

    Losses that are divided by it have the gradients of one process with the whole batch, weighted by the share of the
    processes in which it counts: a loss of boxes has the same weight, next to one of image labels, for any number of
    processes. All processes have to call it together.

    Args:
        value: of any shape, the same in all processes.
        counts: whether this process's value is to be part of the mean. If it is in none, the mean is that of zeros.
        minimum_sum: the sum over the processes is raised to it, as one process with the whole batch would raise it.
    """
    if comm.get_world_size() == 1:
        return value.detach().clamp(min=minimum_sum)
    weight = float(counts)
    total = torch.cat((value.detach().flatten() * weight, value.new_full((1,), weight)))
    dist.all_reduce(total)
    return (total[:-1].clamp(min=minimum_sum) / total[-1].clamp(min=1)).view_as(value)
