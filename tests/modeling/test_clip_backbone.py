"""A frozen ResNet of CLIP as backbone, against the package's own model with random weights."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone
from model_helpers import build, make_batch

pytest.importorskip("clip", reason="needs the package clip")
pytest.importorskip("open_clip", reason="needs the package open_clip")
from clip.model import CLIP
from clip_helpers import EMBED_DIM, clip_cfg, make_clip, randomize
from open_clip.modified_resnet import ModifiedResNet as OpenClipResNet
from open_vocabulary_helpers import TINY_CLIP

from pair_detr import Predictor, prepare_for_inference
from pair_detr.checkpoint.weights import CheckpointError, load_weights, read_weights
from pair_detr.engine.solver import build_optimizer
from pair_detr.modeling.backbone import ClipResNet
from pair_detr.modeling.backbone.clip import AttentionPool
from pair_detr.open_vocabulary import clip_models
from pair_detr.open_vocabulary.image_encoders import ClipResNetShape


@torch.no_grad()
def test_map_and_pool_of_the_whole_image_are_clip_s_embedding(tmp_path: Path) -> None:
    network = make_clip()
    backbone = build_backbone(clip_cfg(tmp_path, network))
    images = torch.randn(2, 3, 64, 64)
    maps = backbone(images)
    torch.testing.assert_close(backbone.attnpool(maps["res5"]), network.encode_image(images))
    for name, stride in {"res2": 4, "res3": 8, "res4": 16, "res5": 32}.items():
        spec = backbone.output_shape()[name]
        assert (spec.stride, maps[name].shape) == (stride, (2, spec.channels, 64 // stride, 64 // stride))


@torch.no_grad()
def test_open_clip_s_resnet_alike() -> None:
    torch.manual_seed(0)
    visual = OpenClipResNet([1, 1, 1, 1], EMBED_DIM, heads=4, image_size=96, width=8).eval()
    randomize(visual)
    images = torch.randn(2, 3, 96, 96)
    expected = visual(images)
    backbone = ClipResNet(visual)
    torch.testing.assert_close(backbone.attnpool(backbone(images)["res5"]), expected)


@torch.no_grad()
def test_attention_pool_equals_clip_s() -> None:
    """Of maps whose cells differ, and under autocast, where it stays in fp32."""
    pool = make_clip().visual.attnpool
    maps = torch.randn(5, pool.positional_embedding.shape[1], 2, 2)
    expected = pool(maps)
    own = AttentionPool(pool)
    assert (own.grid, own.embed_dim) == (2, EMBED_DIM)
    torch.testing.assert_close(own(maps), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(own(maps), expected)


@torch.no_grad()
def test_images_of_any_size_are_covered(tmp_path: Path) -> None:
    """By zeros below and beside, as those of the batch are."""
    backbone = build_backbone(clip_cfg(tmp_path, make_clip()))
    image = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :50, :70] = image
    maps, expected = backbone(image), backbone(padded)
    assert maps["res5"].shape[-2:] == (2, 3)
    assert all(torch.equal(maps[name], expected[name]) for name in expected)


def test_nothing_of_it_is_trained(tmp_path: Path) -> None:
    model = build(clip_cfg(tmp_path, make_clip())).train()
    backbone = model.detector.backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert not any(x.requires_grad for x in backbone.parameters())
    batch = make_batch([(64, 96), (50, 40)], [2, 1])
    assert not backbone(torch.randn(1, 3, 64, 64))["res5"].requires_grad
    optimizer = build_optimizer(clip_cfg(tmp_path, make_clip()), model)
    losses = model(batch)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(x.grad is None for x in backbone.parameters())
    assert model.detector.input_proj.weight.grad.abs().max() > 0
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    # Texts and base texts are no part of what is saved.
    assert not [key for key in model.state_dict() if "texts" in key]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prepared_for_inference(tmp_path: Path, precision: str) -> None:
    """Norms are folded; the attention pool stays in fp32."""
    model = build(clip_cfg(tmp_path, make_clip()), randomize=False).eval()
    prepared = prepare_for_inference(model, precision)
    assert not any("running_mean" in key for key in prepared.detector.backbone.state_dict())
    assert {x.dtype for x in prepared.detector.backbone.attnpool.parameters()} == {torch.float32}
    assert prepared.detector.region_scores.base_texts.dtype == torch.float32
    batch = make_batch([(64, 96)], [1])
    with torch.no_grad():
        expected, found = (x(batch)[0]["instances"].scores for x in (model, prepared))
    torch.testing.assert_close(found, expected, **({} if precision == "fp32" else {"atol": 0.05, "rtol": 0.1}))


def test_what_is_missing_or_unfit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clip_models, "_CLIP_CACHE", tmp_path)
    cfg = clip_cfg(tmp_path, make_clip())
    cfg.MODEL.CLIP.CHECKPOINT = ""
    with pytest.raises(FileNotFoundError, match=r"BACKBONE\.NAME is build_clip_backbone.*MODEL\.CLIP\.CHECKPOINT"):
        build_backbone(cfg)
    # Detectron2's default.
    cfg.MODEL.CLIP.ENCODER = "clip:ViT-B/32"
    with pytest.raises(ValueError, match=r"clip:ViT-B/32 is no ResNet.*MODEL\.CLIP\.ENCODER must be"):
        build_backbone(cfg)
    torch.save(CLIP(**TINY_CLIP).state_dict(), tmp_path / "vit.pt")
    cfg.MODEL.CLIP.ENCODER, cfg.MODEL.CLIP.CHECKPOINT = "clip", str(tmp_path / "vit.pt")
    with pytest.raises(ValueError, match=r"encoder in MODEL\.CLIP\.CHECKPOINT is no ResNet"):
        build_backbone(cfg)
    cfg = clip_cfg(tmp_path, make_clip())
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT is 'BGR', but CLIP's image encoders take RGB"):
        build_backbone(cfg)
    cfg.INPUT.FORMAT = "RGB"
    with caplog.at_level(logging.WARNING):
        build_backbone(cfg)
        assert not caplog.records
        cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
        cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
        build_backbone(cfg)
    assert "not those of CLIP's image encoders" in caplog.text


def test_a_trained_detector_needs_no_clip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights have the backbone's, whose sizes the name of the model tells."""
    monkeypatch.setattr(clip_models, "_CLIP_CACHE", tmp_path)
    cfg = clip_cfg(tmp_path, make_clip())
    model = build(cfg, randomize=False).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "trained.pth")
    backbone = model.detector.backbone
    only_head = {key: x for key, x in model.state_dict().items() if ".backbone." not in key}
    torch.save({"model": only_head}, tmp_path / "head.pth")
    image = make_batch([(64, 96)], [1])
    with torch.no_grad():
        expected = model(image)[0]["instances"]

    shape = ClipResNetShape((1, 2, 1, 1), 8, EMBED_DIM, 64, backbone.attnpool.num_heads)
    monkeypatch.setitem(clip_models._CLIP_DIMS, "RN50", EMBED_DIM)
    monkeypatch.setattr("pair_detr.open_vocabulary.image_encoders.clip_resnet_shape", lambda name: shape)
    (tmp_path / "clip.pt").unlink()
    cfg.MODEL.CLIP.ENCODER, cfg.MODEL.WEIGHTS = "clip:RN50", str(tmp_path / "trained.pth")
    found = Predictor(cfg).predict(image)[0]["instances"]
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=1e-4)

    other = build(cfg)
    with pytest.raises(CheckpointError, match=r"(?s)head\.pth.*backbone\.stem\.conv1\.weight is missing"):
        load_weights(other, read_weights(str(tmp_path / "head.pth")))
