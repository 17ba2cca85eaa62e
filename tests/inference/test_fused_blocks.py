"""Residual blocks by cuDNN's kernels, which a CPU does not have: here functions in their place."""

import copy
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from model_helpers import randomize_constants
from torch import Tensor, nn

from pair_detr.inference import fused_blocks
from pair_detr.inference.batch_norm import fold_batch_norms
from pair_detr.inference.fused_blocks import fuse_blocks

calls: list[str] = []


def convolution_relu(x: Tensor, weight: Tensor, bias: Tensor, *geometry: Any) -> Tensor:
    calls.append("relu")
    return F.conv2d(x, weight, bias, *geometry).relu()


def convolution_add_relu(x: Tensor, weight: Tensor, z: Tensor, alpha: float, bias: Tensor, *geometry: Any) -> Tensor:
    calls.append("add_relu")
    return (F.conv2d(x, weight, bias, *geometry) + alpha * z).relu()


def make_resnet(block: type[nn.Module] = BottleneckBlock) -> ResNet:
    torch.manual_seed(0)
    arguments = {"bottleneck_channels": 16} if block is BottleneckBlock else {}
    stages = [
        ResNet.make_stage(
            block,
            2,
            in_channels=inputs,
            out_channels=2 * inputs,
            norm="FrozenBN",
            stride_per_block=[stride, 1],
            **arguments,
        )
        for inputs, stride in ((16, 1), (32, 2))
    ]
    backbone = ResNet(BasicStem(3, 16, "FrozenBN"), stages, out_features=["res2", "res3"]).eval()
    with torch.no_grad():
        randomize_constants(backbone)
    return backbone


@pytest.fixture
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    monkeypatch.setattr(fused_blocks, "_has_kernel", lambda x: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", convolution_relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", convolution_add_relu)


@pytest.mark.parametrize("block", [BottleneckBlock, BasicBlock])
@pytest.mark.usefixtures("_kernels")
@torch.no_grad()
def test_features_stay(block: type[nn.Module]) -> None:
    backbone = make_resnet(block)
    image = torch.randn(2, 3, 64, 96)
    expected = backbone(image)
    fused = fold_batch_norms(backbone, 3)
    fuse_blocks(fused, 3)
    calls.clear()
    for name, features in fused(image).items():
        torch.testing.assert_close(features, expected[name], rtol=1e-4, atol=1e-4)
    # The stem, and four blocks.
    inner = 2 if block is BottleneckBlock else 1
    assert calls == ["relu"] + [*["relu"] * inner, "add_relu"] * 4
    # A deep copy, as of a prepared model, is the same.
    torch.testing.assert_close(copy.deepcopy(fused)(image), fused(image))


@torch.no_grad()
def test_without_kernels_features_stay() -> None:
    """A model that was prepared on a GPU and then moved."""
    backbone = make_resnet()
    image = torch.randn(1, 3, 64, 64)
    expected = backbone(image)
    fused = fold_batch_norms(backbone, 3)
    fuse_blocks(fused, 3)
    assert any(isinstance(module, fused_blocks.FusedBottleneckBlock) for module in fused.modules())
    for name, features in fused(image).items():
        torch.testing.assert_close(features, expected[name], rtol=1e-4, atol=1e-4)


def refuse(*arguments: Any) -> Tensor:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [(refuse, "CUDNN_STATUS_NOT_SUPPORTED"), (lambda *arguments: 2 * convolution_relu(*arguments), "would be others")],
)
@pytest.mark.usefixtures("_kernels")
@torch.no_grad()
def test_kernels_that_fail_are_not_used(
    kernel: Any, problem: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "cudnn_convolution_relu", kernel)
    backbone = make_resnet()
    image = torch.randn(1, 3, 64, 64)
    expected = backbone(image)
    fused = fold_batch_norms(backbone, 3)
    with caplog.at_level(logging.INFO):
        fuse_blocks(fused, 3)
    assert problem in caplog.text
    assert {type(block) for stage in fused.stages for block in stage} == {BottleneckBlock}
    for name, features in fused(image).items():
        torch.testing.assert_close(features, expected[name], rtol=1e-4, atol=1e-4)


def test_blocks_with_batch_norms_stay() -> None:
    backbone = make_resnet()
    fuse_blocks(backbone, 3)
    assert not any("Fused" in type(module).__name__ for module in backbone.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_kernels_of_a_gpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    plain = fold_batch_norms(make_resnet(), 3).cuda().to(dtype).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fuse_blocks(fused, 3)
    assert any(isinstance(module, fused_blocks.FusedBottleneckBlock) for module in fused.modules())
    image = torch.randn(2, 3, 64, 96, device="cuda").to(dtype).contiguous(memory_format=torch.channels_last)
    for name, features in fused(image).items():
        expected = plain(image)[name]
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        assert (features - expected).abs().max() <= tolerance * expected.abs().max()
