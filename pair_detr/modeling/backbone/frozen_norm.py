"""Convolutions that train under a frozen batch norm, which becomes a part of their weights."""

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn


class ScaledConv2d(Conv2d):
    """Detectron2's convolution, whose frozen batch norm scales the weights rather than the larger feature map.

    The results, and the gradients, are the same. Where the weights have no gradient, the norm is a fused kernel and is
    left to Detectron2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H', W')."""
        norm = self.norm
        if not isinstance(norm, FrozenBatchNorm2d) or not (self.weight.requires_grad and torch.is_grad_enabled()):
            return super().forward(x)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale[:, None, None, None]
        x = F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)


def scale_weights(backbone: nn.Module) -> None:
    """Makes :class:`ScaledConv2d` of a network's convolutions with frozen batch norms, in place; all names stay."""
    for module in backbone.modules():
        if type(module) is Conv2d and isinstance(module.norm, FrozenBatchNorm2d):
            module.__class__ = ScaledConv2d
