"""BatchNorm where batches come from different datasets."""

from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.layers import NaiveSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_SYNCHRONIZED = (nn.SyncBatchNorm, NaiveSyncBatchNorm)


@contextmanager
def fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block, the BatchNorm layers of a module normalize as in inference, and learn no statistics.

    Photos that all show blue things are not blue to a network that normalizes them among themselves. Layers that share
    statistics among processes stay as they are: another process may have a batch of another kind, and would wait.
    """
    norms = [
        own
        for own in module.modules()
        if isinstance(own, _BatchNorm) and own.training and not isinstance(own, _SYNCHRONIZED)
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
