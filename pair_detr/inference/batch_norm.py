"""Batch norms with fixed statistics as a part of the convolutions before them."""

import copy
import logging
from collections import Counter
from typing import Any

import torch
from detectron2.layers import Conv2d as Detectron2Conv2d
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

# Height and width of the random image that shows what a backbone does.
_PROBE_SIDE = 64
# The largest difference of features, relative to the largest feature: a GPU may multiply with 10 bits.
_TOLERANCE = 0.01


def is_batch_norm(module: nn.Module | None) -> bool:
    """Whether a module is torch's, Detectron2's, torchvision's or timm's batch norm, frozen or not, with statistics."""
    return all(isinstance(getattr(module, name, None), Tensor) for name in ("running_mean", "running_var"))


@torch.no_grad()
def fold_batch_norms(backbone: Backbone, channels: int) -> Backbone:
    """A backbone in evaluation mode with fewer batch norms, and the same features but for rounding.

    Those that directly follow a convolution are folded, as a run with a random image shows; others stay. If features
    change after all, as where a convolution computes its weights at each call, the backbone stays as it is.

    Args:
        backbone: in evaluation mode; the given one does not change.
        channels: of its images.
    """
    if not any(map(is_batch_norm, backbone.modules())):
        return backbone
    probe = probe_image(backbone, channels)
    folded = copy.deepcopy(backbone)
    try:
        expected = backbone(probe)
        for conv, norm in _find_pairs(folded, probe):
            _fold(folded, conv, norm)
        found = folded(probe)
    except (RuntimeError, ValueError) as error:
        logger.info("Batch norms stay, as the backbone cannot be run with a small image: %s", error)
        return backbone
    if not agree(found, expected, _TOLERANCE):
        logger.info("Batch norms stay: with them folded, the features of the backbone would be others.")
        return backbone
    return folded


def probe_image(backbone: nn.Module, channels: int) -> Tensor:
    """A small random image (1, channels, H, W) of the type and on the device of a backbone."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, _PROBE_SIDE, _PROBE_SIDE, generator=generator)
    return image.to(next(backbone.parameters()))


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> bool:
    """Whether no feature map differs by more than a part of its largest feature; those with NaN do."""
    return all(
        bool((found[name] - features).abs().max() <= tolerance * features.abs().max())
        for name, features in expected.items()
    )


def _find_pairs(backbone: Backbone, probe: Tensor) -> list[tuple[str, str]]:
    """Names of the convolutions and batch norms of which the second takes what the first returns, once each."""
    pairs: list[tuple[str, str]] = []
    names = {module: name for name, module in backbone.named_modules()}
    calls: Counter[nn.Module] = Counter()
    # Outputs with what has made them; they are kept, as the address of a tensor that is gone is used again.
    outputs: dict[int, tuple[nn.Module, Tensor, int]] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = module, output, output._version

    def pair(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[module] += 1
        conv, output, version = outputs.get(id(inputs[0]), (None, None, None))
        # A higher version has been changed in place.
        if conv is not None and output._version == version:
            pairs.append((names[conv], names[module]))

    hooks = []
    for module in names:
        if isinstance(module, Detectron2Conv2d) and is_batch_norm(module.norm):
            pairs.append((names[module], names[module.norm]))
        elif isinstance(module, nn.Conv2d) and getattr(module, "activation", None) is None:
            hooks.append(module.register_forward_hook(record))
        elif is_batch_norm(module):
            hooks.append(module.register_forward_pre_hook(pair))
    backbone(probe)
    for hook in hooks:
        hook.remove()
    repeated = {names[module] for module, count in calls.items() if count > 1}
    return [(conv, norm) for conv, norm in pairs if not repeated & {conv, norm}]


def _fold(backbone: Backbone, conv_name: str, norm_name: str) -> None:
    conv, norm = backbone.get_submodule(conv_name), backbone.get_submodule(norm_name)
    parameters = conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias
    weight, bias, mean, variance, scale, shift = (None if x is None else x.double() for x in parameters)
    folded_weight, folded_bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(folded_weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(folded_bias.to(dtype), requires_grad=False)
    # timm's also have what follows the norm.
    rest = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    backbone.set_submodule(norm_name, nn.Sequential(*rest) if rest else nn.Identity())
