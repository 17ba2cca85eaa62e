"""ResNets against torchvision's, and the small ConvNet."""

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from model_helpers import build, default_cfg, randomize_constants, tiny_resnet_cfg
from torch import nn

from pair_detr.modeling.backbone import ConvNet


def resnet_cfg(depth: int = 50, dilation: int = 1) -> CfgNode:
    cfg = default_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_detr_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.RES5_DILATION = dilation
    return cfg


def torchvision_modules(model: nn.Module) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Convolutions and their norms, block by block with the shortcut first, as Detectron2 lists them."""
    pairs = [(model.conv1, model.bn1)]
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            if block.downsample is not None:
                pairs.append(tuple(block.downsample))
            pairs += [
                (getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in (1, 2, 3) if hasattr(block, f"conv{i}")
            ]
    return pairs


def detectron2_convolutions(model: nn.Module) -> list[nn.Conv2d]:
    convolutions = [model.stem.conv1]
    for stage in (model.res2, model.res3, model.res4, model.res5):
        for block in stage:
            candidates = (getattr(block, name, None) for name in ("shortcut", "conv1", "conv2", "conv3"))
            convolutions += [c for c in candidates if c is not None]
    return convolutions


@pytest.mark.parametrize(
    ("depth", "dilation"), [(18, 1), (50, 1), (50, 2), pytest.param(101, 2, marks=pytest.mark.slow)]
)
def test_resnet_is_that_of_torchvision(depth: int, dilation: int) -> None:
    """Every stride, dilation and padding, and the features with the same weights."""
    ours = build_backbone(resnet_cfg(depth, dilation)).eval()
    options = {"replace_stride_with_dilation": [False, False, True]} if dilation == 2 else {}
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None, **options).eval()
    randomize_constants(theirs)
    convolutions = detectron2_convolutions(ours)
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in ours.modules())
    for conv, (their_conv, their_norm) in zip(convolutions, torchvision_modules(theirs), strict=True):
        for attribute in ("kernel_size", "stride", "dilation", "padding", "groups"):
            assert getattr(conv, attribute) == getattr(their_conv, attribute)
        assert isinstance(conv.norm, FrozenBatchNorm2d)
        assert conv.norm.eps == their_norm.eps
        conv.weight.data = their_conv.weight.data
        conv.norm.load_state_dict({k: v for k, v in their_norm.state_dict().items() if "num_batches" not in k})
    image = torch.randn(2, 3, 97, 64)
    with torch.no_grad():
        found = ours(image)["res5"]
        expected = nn.Sequential(*list(theirs.children())[:-2])(image)
    assert found.shape[-2:] == ((7, 4) if dilation == 2 else (4, 2))
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)


def test_dc5_says_its_stride() -> None:
    shapes = [build_backbone(resnet_cfg(50, dilation)).output_shape()["res5"] for dilation in (1, 2)]
    assert [(shape.channels, shape.stride) for shape in shapes] == [(2048, 32), (2048, 16)]


def test_resnet_freezes_stem_and_first_stage() -> None:
    cfg = resnet_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    trained = {name.split(".")[0] for name, p in build_backbone(cfg).named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}


def test_dilation_of_a_stage_that_is_left_out() -> None:
    cfg = tiny_resnet_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.RES5_DILATION = ["res4"], 2
    with pytest.raises(ValueError, match=r"RES5_DILATION is 2, but MODEL\.RESNETS\.OUT_FEATURES \['res4'\] leaves out"):
        build(cfg)


def test_convnet() -> None:
    net = ConvNet(3, [4, 8, 16])
    assert net.output_shape() == {
        "stage2": ShapeSpec(channels=8, stride=4),
        "last": ShapeSpec(channels=16, stride=8),
    }
    features = net(torch.randn(2, 3, 40, 61))
    assert {name: tuple(x.shape) for name, x in features.items()} == {"stage2": (2, 8, 10, 16), "last": (2, 16, 5, 8)}
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 6


def test_masks_of_a_config_that_is_frozen() -> None:
    """As that of every training is."""
    cfg = tiny_resnet_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.freeze()
    assert build(cfg).detector.finer_features == ["res4", "res3", "res2"]
    assert cfg.MODEL.RESNETS.OUT_FEATURES == ["res5"]


@pytest.mark.parametrize(
    ("given", "emitted"),
    [(["res4"], ["res2", "res3", "res4"]), (["stem", "res3"], ["res2", "res3"]), (["stem"], ["stem"])],
)
def test_stages_up_to_the_last_that_is_named(given: list[str], emitted: list[str]) -> None:
    cfg = tiny_resnet_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = given
    assert list(build_backbone(cfg).output_shape()) == emitted
