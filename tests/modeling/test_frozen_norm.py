"""Frozen batch norms as a part of the weights: outputs, gradients and names are those of Detectron2's convolution."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from model_helpers import build, randomize_constants, tiny_resnet_cfg
from torch import nn

from pair_detr.modeling.backbone.frozen_norm import ScaledConv2d, scale_weights


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2, "bias": True, "activation": nn.ReLU()},
    ],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_convolution(options: dict, precision: torch.dtype) -> None:
    theirs = Conv2d(4, 6, norm=FrozenBatchNorm2d(6), **options)
    randomize_constants(theirs)
    nn.init.uniform_(theirs.norm.running_var, 0.5, 1.5)
    ours = nn.ModuleDict({"conv": copy.deepcopy(theirs)})
    scale_weights(ours)
    ours = ours["conv"]
    assert type(ours) is ScaledConv2d and ours.state_dict().keys() == theirs.state_dict().keys()
    inputs = [torch.randn(2, 4, 9, 11).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        found, expected = ours(inputs[0]), theirs(inputs[1])
    assert found.dtype == expected.dtype == precision
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if precision == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(found, expected, **tolerance)
    direction = torch.randn(expected.shape)
    for output in (found, expected):
        (output * direction).sum().backward()
    gradients = zip([inputs[0], *ours.parameters()], [inputs[1], *theirs.parameters()], strict=True)
    for of_ours, of_theirs in gradients if precision == torch.float32 else ():
        torch.testing.assert_close(of_ours.grad, of_theirs.grad, atol=1e-4, rtol=1e-4)
    # Without a gradient of the weights it is Detectron2's, bit by bit.
    with torch.no_grad():
        assert torch.equal(ours(inputs[0]), theirs(inputs[0]))
    assert torch.equal(ours.requires_grad_(False)(inputs[0]), theirs.requires_grad_(False)(inputs[0]))


def test_resnets_have_it_where_norms_are_frozen() -> None:
    cfg = tiny_resnet_cfg()
    convolutions = [x for x in build(cfg).detector.backbone.modules() if isinstance(x, Conv2d)]
    assert convolutions and all(type(x) is ScaledConv2d for x in convolutions)
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    convolutions = [x for x in build(cfg).detector.backbone.modules() if isinstance(x, Conv2d)]
    assert convolutions and all(type(x) is Conv2d for x in convolutions)


def test_training_changes_the_weights_alone() -> None:
    model = build(tiny_resnet_cfg()).detector.backbone
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.1)
    model(torch.randn(1, 3, 64, 64))["res5"].sum().backward()
    optimizer.step()
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed and all(name.endswith(".weight") and ".norm." not in name for name in changed)
