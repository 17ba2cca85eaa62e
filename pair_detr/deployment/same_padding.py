"""TensorFlow's padding, which depends on the size of what is padded, as one that does not."""

from torch import nn

# timm's convolution of that padding; not imported, as other backbones work without timm.
_SAME = "Conv2dSame"


def pads_by_size(backbone: nn.Module) -> bool:
    """Whether a backbone has convolutions that pad by the size of what they get (timm's ``pad_type="same"``)."""
    return any(type(module).__name__ == _SAME for module in backbone.modules())


def make_padding_constant(backbone: nn.Module) -> None:
    """Replaces, in place, paddings that depend on the size by what they are for images of multiples of the stride.

    In a graph of any size each would be a formula of the one before, which grow beyond what can be traced.
    """
    for name, module in list(backbone.named_modules()):
        if type(module).__name__ == _SAME:
            backbone.set_submodule(name, _with_constant_padding(module))


def _with_constant_padding(same: nn.Conv2d) -> nn.Module:
    sides = []
    for kernel, stride, dilation in zip(same.kernel_size, same.stride, same.dilation, strict=True):
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        sides.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = sides
    conv = nn.Conv2d(
        same.in_channels,
        same.out_channels,
        same.kernel_size,
        same.stride,
        dilation=same.dilation,
        groups=same.groups,
        bias=same.bias is not None,
        device="meta",
    )
    conv.weight, conv.bias = same.weight, same.bias
    return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)
