"""Perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pair_detr.layers.dropout import Dropout


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the last dimension."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """The position-wise feed-forward block of a transformer layer, without residual and norm."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))


def multi_linear(x: Tensor, linears: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    """Applies several linear maps to the same input in one matrix product.

    Args:
        x: (..., in_dim).
        linears: (weight, bias) of each map, as in :func:`torch.nn.functional.linear`.

    Returns:
        One (..., out_dim) a map.
    """
    weights, biases = zip(*linears, strict=True)
    return F.linear(x, torch.cat(weights), torch.cat(biases)).split([len(bias) for bias in biases], dim=-1)
