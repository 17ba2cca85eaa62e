"""Residual blocks as cuDNN's fused kernels: a convolution, its bias, a sum and ReLU in one."""

import logging

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from pair_detr.inference.batch_norm import agree, probe_image

logger = logging.getLogger(__name__)

# The largest difference of features, relative to the largest feature, in the type with the fewest bits.
_TOLERANCE = 0.1


def _conv_relu(conv: Conv2d, x: Tensor, added: Tensor | None = None) -> Tensor:
    """ReLU of a convolution, to which something of its shape is added."""
    geometry = conv.stride, conv.padding, conv.dilation, conv.groups
    if added is None:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *geometry)
    return torch.cudnn_convolution_add_relu(x, conv.weight, added, 1.0, conv.bias, *geometry)


def _has_kernel(x: Tensor) -> bool:
    """torch.compile makes its own of the plain operations."""
    return x.is_cuda and not torch.compiler.is_compiling()


def _shortcut(block: nn.Module, x: Tensor) -> Tensor:
    return x if block.shortcut is None else block.shortcut(x)


class FusedStem(BasicStem):
    """Detectron2's first convolution, with cuDNN's kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H / 4, W / 4)."""
        if not _has_kernel(x):
            return super().forward(x)
        return max_pool2d(_conv_relu(self.conv1, x), kernel_size=3, stride=2, padding=1)


class FusedBasicBlock(BasicBlock):
    """Detectron2's block of two convolutions, with cuDNN's kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H', W')."""
        if not _has_kernel(x):
            return super().forward(x)
        return _conv_relu(self.conv2, _conv_relu(self.conv1, x), _shortcut(self, x))


class FusedBottleneckBlock(BottleneckBlock):
    """Detectron2's block of three convolutions, with cuDNN's kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H', W')."""
        if not _has_kernel(x):
            return super().forward(x)
        return _conv_relu(self.conv3, _conv_relu(self.conv2, _conv_relu(self.conv1, x)), _shortcut(self, x))


_FUSED = {BasicStem: FusedStem, BasicBlock: FusedBasicBlock, BottleneckBlock: FusedBottleneckBlock}


@torch.no_grad()
def fuse_blocks(backbone: nn.Module, channels: int) -> None:
    """Makes fused blocks of a network's residual blocks, in place, where their batch norms are folded.

    PyTorch adds the bias of a convolution of channels-last maps by a kernel of its own, which takes longer than the
    convolution. Where cuDNN has no such kernel for the network or the device, it stays as it is.

    Args:
        backbone: in evaluation mode and on a GPU, in the type that it is to run in.
        channels: of its images.
    """
    blocks = [block for block in backbone.modules() if type(block) in _FUSED and _is_folded(block)]
    if not blocks:
        return
    probe = probe_image(backbone, channels).contiguous(memory_format=torch.channels_last)
    expected = backbone(probe)
    types = [type(block) for block in blocks]
    for block in blocks:
        block.__class__ = _FUSED[type(block)]
        _move_bias_of_shortcut(block)
    try:
        found = backbone(probe)
    except RuntimeError as error:
        problem = str(error)
    else:
        if agree(found, expected, _TOLERANCE):
            return
        problem = "their features would be others"
    for block, kind in zip(blocks, types, strict=True):
        block.__class__ = kind
    logger.info("Residual blocks are not fused: %s", problem)


def _is_folded(block: nn.Module) -> bool:
    convs = [module for module in block.children() if isinstance(module, Conv2d)]
    return all(isinstance(conv.norm, nn.Identity) and conv.activation is None for conv in convs)


def _move_bias_of_shortcut(block: nn.Module) -> None:
    """To the last convolution, which has a kernel that adds it."""
    shortcut = getattr(block, "shortcut", None)
    if shortcut is None or shortcut.bias is None:
        return
    last = block.conv3 if isinstance(block, BottleneckBlock) else block.conv2
    last.bias += shortcut.bias
    shortcut.bias = None
