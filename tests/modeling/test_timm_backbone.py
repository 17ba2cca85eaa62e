"""Backbones of timm against timm itself."""

import argparse
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from hub_helpers import running_hub
from model_helpers import build, default_cfg, make_batch, randomize_constants, tiny_cfg
from safetensors.torch import save
from torch import nn

import pair_detr.checkpoint.weights  # noqa: F401  registers the hub's addresses
from pair_detr.modeling.backbone import TimmBackbone

timm = pytest.importorskip("timm")

SMALL_MODEL = "test_resnet"  # 0.5 M parameters
# Emits NHWC maps; timm has no small one.
SMALL_SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 2}
ANY_SIZE = {"dynamic_img_size": True}
SWIN, VIT, CONVNEXT = "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "test_convnext"
SMALL_VIT = {"embed_dim": 16, "depth": 5, "num_heads": 2}


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(SMALL_MODEL)
    randomize_constants(model)
    return model


@pytest.fixture
def weights(reference: nn.Module, tmp_path: Path) -> str:
    path = tmp_path / "weights.pth"
    torch.save(reference.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("frozen_norm", [False, True])
def test_timm_features_are_those_of_timm(reference: nn.Module, weights: str, frozen_norm: bool) -> None:
    backbone = TimmBackbone(SMALL_MODEL, [1, -1], weights=weights, frozen_norm=frozen_norm).eval()
    plain = timm.create_model(
        SMALL_MODEL, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": weights}
    )
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, expected = backbone(image), plain.eval()(image)
        last = reference.eval().forward_features(image)
    assert list(features) == [f"stage{i}" for i in range(len(expected))] == list(backbone.output_shape())
    for found, wanted in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(expected[-1], last)
    for name, shape in backbone.output_shape().items():
        assert features[name].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_timm_weights_of_mobilenet(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "mobilenetv2_100_in1k.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    backbone = TimmBackbone("mobilenetv2_100", [-1], weights=str(path), frozen_norm=True)
    saved = torch.load(path, weights_only=True)
    loaded = {k: v for k, v in backbone.model.state_dict().items() if "num_batches_tracked" not in k}
    assert len(loaded) > 200
    for name, tensor in loaded.items():
        assert torch.equal(tensor, saved[name]), name
    # What is left out is the head, which a detector has no use for.
    left_out = {name.split(".")[0] for name in saved if name not in loaded and "num_batches_tracked" not in name}
    assert left_out == {"conv_head", "bn2", "classifier"}


@pytest.mark.parametrize("container", ["state_dict", "parallel", "averaged"])
def test_timm_weights_in_training_checkpoints(reference: nn.Module, weights: str, container: str) -> None:
    """Read here, without running code, but in the way of timm's own reader."""
    state = reference.state_dict()
    other = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    content = {
        "state_dict": {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        "parallel": {"model": {f"module.{key}": tensor for key, tensor in state.items()}},
        "averaged": {"state_dict": other, "state_dict_ema": state},
    }
    torch.save(content[container], weights)
    model = TimmBackbone(SMALL_MODEL, [-1], weights=weights).model
    names = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(model.get_parameter(name), state[name]) for name in names)
    assert not any("state_dict" in (getattr(module, "pretrained_cfg", None) or {}) for module in model.modules())


@pytest.mark.parametrize("key", ["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"])
def test_timm_reads_no_files_of_its_own(weights: str, key: str) -> None:
    with pytest.raises(ValueError, match=rf"MODEL\.TIMM\.KWARGS must not hold {key}: .* MODEL\.TIMM\.WEIGHTS alone"):
        TimmBackbone(SMALL_MODEL, [-1], kwargs={key: weights})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"Not Found", "is text, not weights"),
        ([1], "holds no state dict"),
        ({0: 1}, "holds no state dict"),
    ],
)
def test_timm_weights_that_are_none(weights: str, content: Any, message: str) -> None:
    Path(weights).write_bytes(content) if isinstance(content, bytes) else torch.save(content, weights)
    with pytest.raises(ValueError, match=rf"MODEL\.TIMM\.WEIGHTS: .*weights\.pth {message}"):
        TimmBackbone(SMALL_MODEL, [-1], weights=weights)


def trained_names(backbone: TimmBackbone) -> set[str]:
    return {name for name, p in backbone.model.named_parameters() if p.requires_grad}


def parameters_behind(model: nn.Module, stage: int) -> set[str]:
    """Names of the parameters that a stage's feature map depends on."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    feature = model(torch.randn(2, 3, 64, 64))[stage]
    gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


@pytest.mark.parametrize("name", [SMALL_MODEL, "mobilenetv2_050"])
@pytest.mark.parametrize("frozen_norm", [False, True])
def test_timm_frozen_stages_stand_still(name: str, frozen_norm: bool) -> None:
    """Parameters are not trained and, as in Detectron2's ResNets, batch norms keep their statistics."""
    frozen = parameters_behind(timm.create_model(name, features_only=True), stage=1)
    backbone = TimmBackbone(name, [-1], frozen_norm=frozen_norm, freeze_at=2).train()
    before = {key.removeprefix("model."): tensor.clone() for key, tensor in backbone.state_dict().items()}
    trained = trained_names(backbone)
    assert not trained & frozen

    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], 0.1)
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    after = {key.removeprefix("model."): tensor for key, tensor in backbone.state_dict().items()}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    still = {key.rpartition(".")[0] for key in frozen}
    assert not [key for key in changed if key.rpartition(".")[0] in still]
    # All other stages are trained; their statistics move unless all norms are frozen.
    assert trained == {name for name, _ in backbone.model.named_parameters()} - frozen
    assert all((p.grad is not None) == (name in trained) for name, p in backbone.model.named_parameters())
    assert any("running" in key for key in changed) == (not frozen_norm)


def test_timm_batch_norm_is_trained_unless_frozen() -> None:
    for frozen_norm in (False, True):
        backbone = TimmBackbone("mobilenetv2_050", [1], frozen_norm=frozen_norm)
        has_norms = any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
        trains_norms = any(".bn" in name for name in trained_names(backbone))
        assert has_norms == trains_norms == (not frozen_norm)


@pytest.mark.parametrize("name", [SMALL_MODEL, "mobilenetv2_050"])
def test_timm_builds_no_stage_beyond_the_last_wanted(name: str) -> None:
    """Parameters that no loss reaches would stop DistributedDataParallel."""
    backbone = TimmBackbone(name, [1])
    plain = timm.create_model(name, features_only=True)
    assert trained_names(backbone) == parameters_behind(plain, stage=1)
    backbone.model.load_state_dict({k: v for k, v in plain.state_dict().items() if k in backbone.model.state_dict()})
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone.eval()(image)["stage1"], plain.eval()(image)[1])


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_timm_in_a_detector(norm: str) -> None:
    cfg = tiny_cfg("conditional_detr")
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.NORM, cfg.MODEL.TIMM.OUT_INDICES = SMALL_MODEL, norm, [1, 2]
    model = build(cfg)
    sum(model(make_batch([(64, 64), (32, 64)], [2, 0])).values()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert without
    assert all(".backbone." in name for name in without)


def test_timm_keyword_arguments_reach_the_model() -> None:
    cfg = default_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME = "mobilenetv2_050"
    cfg.merge_from_other_cfg(CfgNode({"MODEL": {"TIMM": {"KWARGS": {"output_stride": 16}}}}))
    backbone = build_backbone(cfg)
    assert backbone.output_shape()["stage4"].stride == 16
    assert backbone(torch.randn(1, 3, 64, 64))["stage4"].shape[-2:] == (4, 4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())


@pytest.mark.parametrize(
    ("name", "kwargs", "stages", "strides"),
    [
        (SWIN, SMALL_SWIN | ANY_SIZE, [1, 3], [8, 32]),
        (VIT, SMALL_VIT | ANY_SIZE, [0, 4], [16, 16]),
        (CONVNEXT, {}, [1, 3], [8, 32]),
    ],
)
def test_timm_families_emit_nchw_maps(name: str, kwargs: dict[str, Any], stages: list[int], strides: list[int]) -> None:
    """Whatever timm's layout; the stages of a ViT are its blocks."""
    backbone = TimmBackbone(name, [stages[0], -1], kwargs=kwargs).eval()
    shapes = backbone.output_shape()
    assert list(shapes) == [f"stage{i}" for i in range(stages[-1] + 1)]
    assert [shapes[f"stage{i}"].stride for i in stages] == strides
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 64, 96))
        uneven = backbone(torch.randn(2, 3, 70, 50))
    assert list(features) == list(uneven) == list(shapes)
    for key, shape in shapes.items():
        assert features[key].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert uneven[key].shape[:2] == (2, shape.channels)
        # Sides that are no multiple of a patch; convolutions of ConvNeXt without padding round down.
        assert all(abs(n - side / shape.stride) < 1 for n, side in zip(uneven[key].shape[2:], (70, 50), strict=True))


@pytest.mark.parametrize(("name", "kwargs"), [(SWIN, SMALL_SWIN | ANY_SIZE), (VIT, SMALL_VIT | ANY_SIZE)])
def test_timm_transformers_compute_what_timm_computes(name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    """From weights in a file; the last map is what the whole model makes before its last normalization."""
    whole = timm.create_model(name, num_classes=0, **kwargs).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = TimmBackbone(name, [-1], weights=str(tmp_path / "weights.pth"), kwargs=kwargs).eval()
    whole.norm = nn.Identity()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        *_, found = backbone(image).values()
        expected = whole.forward_features(image)
    if name == VIT:
        expected = expected[:, 1:].unflatten(1, (4, 6))
    torch.testing.assert_close(found, expected.permute(0, 3, 1, 2))


def test_timm_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = timm.create_model(SMALL_MODEL).state_dict()
    key = next(key for key, value in state.items() if value.is_floating_point())
    state[key].view(-1)[1] = float("nan")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"MODEL\.TIMM\.WEIGHTS: .*weights\.pth cannot be used: {key} holds NaN"):
        TimmBackbone(SMALL_MODEL, [-1], weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(("name", "kwargs"), [(SWIN, SMALL_SWIN), (VIT, SMALL_VIT)])
def test_timm_models_of_a_fixed_size_say_how_to_free_them(name: str, kwargs: dict[str, Any]) -> None:
    backbone = TimmBackbone(name, [-1], kwargs=kwargs)
    with pytest.raises(ValueError, match=rf"{name}.* 64 x 96 .*MODEL\.TIMM\.KWARGS.*dynamic_img_size.*img_size"):
        backbone(torch.randn(1, 3, 64, 96))
    # The second remedy, as YAML has it.
    backbone = TimmBackbone(name, [-1], kwargs=kwargs | {"img_size": [64, 96]})
    assert backbone(torch.randn(1, 3, 64, 96))


def test_timm_vit_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match=r"MODEL\.BACKBONE\.FREEZE_AT: .*Set it to 0"):
        TimmBackbone(VIT, [-1], freeze_at=2, kwargs=SMALL_VIT)


def test_timm_swin_is_frozen_by_stages() -> None:
    backbone = TimmBackbone(SWIN, [-1], freeze_at=2, kwargs=SMALL_SWIN)
    assert {name.split(".")[0] for name in trained_names(backbone)} == {"layers_2", "layers_3"}


@pytest.mark.parametrize("name", [SMALL_MODEL, VIT])
def test_timm_unknown_keyword_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=rf"MODEL\.TIMM\.KWARGS .*'no_such'.* {name}.*Correct or remove"):
        TimmBackbone(name, [-1], kwargs={"no_such": 1})


def test_timm_errors_name_the_key(tmp_path: Path, weights: str) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.NAME is 'resnet5'"):
        TimmBackbone("resnet5", [-1])
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.OUT_INDICES is \[0, 7\].*stages 0 to 4"):
        TimmBackbone(SMALL_MODEL, [0, 7])
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.OUT_INDICES is \[\]"):
        TimmBackbone(SMALL_MODEL, [])
    with pytest.raises(FileNotFoundError, match=r"MODEL\.TIMM\.WEIGHTS: .*absent\.pth does not exist"):
        TimmBackbone(SMALL_MODEL, [-1], weights=str(tmp_path / "absent.pth"))
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.WEIGHTS: .* does not fit MODEL\.TIMM\.NAME mobilenetv2_050"):
        TimmBackbone("mobilenetv2_050", [-1], weights=weights)
    with pytest.raises(ValueError, match=r"MODEL\.BACKBONE\.FREEZE_AT is 9"):
        TimmBackbone(SMALL_MODEL, [-1], freeze_at=9)
    cfg = default_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NORM = "build_timm_backbone", "GN"
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.NORM is 'GN'; choose FrozenBN or BN"):
        build_backbone(cfg)


def test_timm_weights_without_any_key_of_the_model_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="none of the backbone's parameters"):
        TimmBackbone("resnet10t", [1], weights=str(tmp_path / "other.pth"))


def test_the_classifier_of_weights_is_no_news(
    reference: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """timm speaks of parameters without a place, as a head's always are; of missing ones it has reason to."""
    caplog.set_level(logging.INFO, "timm")
    state = dict(reference.state_dict())
    torch.save(state, tmp_path / "whole.pth")
    TimmBackbone(SMALL_MODEL, [-1], weights=str(tmp_path / "whole.pth"))
    assert "Unexpected keys" not in caplog.text
    caplog.clear()
    first = next(key for key in state if key.endswith("weight"))
    del state[first]
    torch.save(state, tmp_path / "part.pth")
    TimmBackbone(SMALL_MODEL, [-1], weights=str(tmp_path / "part.pth"))
    assert f"Missing keys ({first}" in caplog.text


def test_weights_by_an_address(reference: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in reference.state_dict().items()}
    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.repos["owner/small"] = {"model.safetensors": save(state)}
        backbone = TimmBackbone(SMALL_MODEL, [-1], weights="hub://owner/small/model.safetensors")
        with pytest.raises(FileNotFoundError, match=r"TIMM\.WEIGHTS: hub://owner/none/model\.safetensors cannot be"):
            TimmBackbone(SMALL_MODEL, [-1], weights="hub://owner/none/model.safetensors")
    name, found = next(iter(backbone.model.state_dict().items()))
    torch.testing.assert_close(found, state[name])
