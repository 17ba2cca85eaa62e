"""A bias of attention by where a cell lies relative to both corners of a query's box."""

import math

import torch
from torch import Tensor, nn

from pair_detr.layers.boxes import cxcywh_to_xyxy
from pair_detr.layers.feed_forward import MLP

_SCALE = 8.0


class BoxBias(nn.Module):
    """Adds to the attention of a query to a cell a function of the distances between the cell and the box's corners.

    It is a sum of one along each axis, which makes it cheap: (W + H) values of it for each query and head, not W H.

    Source: box-to-pixel relative position bias of Plain DETR (arXiv 2308.01904, section 4.1).
    """

    def __init__(self, num_heads: int, hidden_dim: int = 64) -> None:
        """
        Args:
            num_heads: of the attention.
            hidden_dim: of the perceptron of each axis.
        """
        super().__init__()
        self.x = MLP(2, hidden_dim, num_heads, 2)
        self.y = MLP(2, hidden_dim, num_heads, 2)

    def forward(self, boxes: Tensor, centers: Tensor) -> Tensor:
        """The bias.

        Args:
            boxes: (B, N, 4) fp32 cxcywh, normalized.
            centers: (B, H, W, 2) fp32, x and y of the centers of the cells, normalized alike.

        Returns:
            (B, heads, N, H * W).
        """
        corners = cxcywh_to_xyxy(boxes).unflatten(-1, (2, 2))
        along_x = self.x(_compress(centers[:, None, 0, :, None, 0] - corners[:, :, None, :, 0], self.x))
        along_y = self.y(_compress(centers[:, None, :, 0, None, 1] - corners[:, :, None, :, 1], self.y))
        return (along_y[:, :, :, None] + along_x[:, :, None]).flatten(2, 3).permute(0, 3, 1, 2)


def _compress(distance: Tensor, mlp: MLP) -> Tensor:
    """Signed logarithms, which tell small distances from each other (Swin Transformer V2, arXiv 2111.09883)."""
    compressed = distance.sign() * torch.log2(1 + _SCALE * distance.abs()) / math.log2(_SCALE)
    return compressed.to(mlp.layers[0].weight.dtype)
