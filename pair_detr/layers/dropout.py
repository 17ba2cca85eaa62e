"""Dropout that is cheap on CPUs, where torch's own draws a number of 32 bits or more for each element."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Random bits for each element, by which probabilities are rounded.
_LEVELS = 2**16


def dropout(x: Tensor, p: float) -> Tensor:
    """Zeroes elements of ``x`` with probability ``p`` and scales the others up: :func:`torch.nn.functional.dropout`.

    On CPUs 16 random bits decide about an element, so that ``p`` is a multiple of 1/65536; the scale is that of it.
    """
    dropped = round(p * _LEVELS)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or dropped in (0, _LEVELS):
        return F.dropout(x, p)
    count = x.numel()
    # One draw for four elements.
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    is_kept = bits.view(torch.int16)[:count].view(x.shape) >= dropped - _LEVELS // 2
    scale, zero = (torch.tensor(value, dtype=x.dtype) for value in (_LEVELS / (_LEVELS - dropped), 0.0))
    return x * torch.where(is_kept, scale, zero)


class Dropout(nn.Dropout):
    """:func:`dropout` in training."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return dropout(x, self.p) if self.training and self.p > 0 else x
