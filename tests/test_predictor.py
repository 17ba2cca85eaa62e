"""pair_detr.Predictor on tiny models."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from model_helpers import VARIANTS, build, tiny_cfg
from open_vocabulary_helpers import NAMES, build_text_model, make_vocabulary, text_cfg
from PIL import Image

import pair_detr
from pair_detr import predictor as predictor_module
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.images.inputs import as_format
from pair_detr.open_vocabulary import Vocabulary

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Of a tiny model for NAMES, whose checkpoint is in MODEL.WEIGHTS."""
    cfg = text_cfg(tmp_path)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    AtomicCheckpointer(build_text_model(tmp_path), str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    return cfg


def scores(predictor: Any) -> torch.Tensor:
    """(Q, C) scores of the predictor's image by box, in an order that does not depend on the classes."""
    instances = predictor(IMAGE)["instances"]
    table = {}
    boxes, labels = instances.pred_boxes.tensor.round(decimals=2).tolist(), instances.pred_classes.tolist()
    for box, label, score in zip(boxes, labels, instances.scores.tolist(), strict=True):
        table.setdefault(tuple(box), {})[label] = score
    return torch.tensor([[row[c] for c in sorted(row)] for _, row in sorted(table.items())])


def test_it_detects_what_detectron2s_predictor_does(cfg: CfgNode) -> None:
    found = pair_detr.Predictor(cfg)(IMAGE)["instances"]
    expected = DefaultPredictor(cfg)(IMAGE)["instances"]
    assert found.image_size == (60, 80)
    assert len(found) == 21
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_classes, expected.pred_classes)


def test_channels_are_turned_for_rgb_models(cfg: CfgNode) -> None:
    rgb = pair_detr.Predictor(cfg)(IMAGE)["instances"]
    cfg.INPUT.FORMAT = "BGR"
    torch.testing.assert_close(pair_detr.Predictor(cfg)(IMAGE[:, :, ::-1])["instances"].scores, rgb.scores)


def test_known_names_take_their_rows(cfg: CfgNode) -> None:
    everything = pair_detr.Predictor(cfg)
    assert everything.metadata.thing_classes == list(NAMES)
    predictor = pair_detr.Predictor(cfg, vocabulary=["Traffic_cone", "helmet"])
    assert predictor.metadata.thing_classes == ["Traffic_cone", "helmet"]
    torch.testing.assert_close(scores(predictor), scores(everything)[:, [2, 0]])
    predictor.set_vocabulary(["forklift"])
    assert predictor.metadata.thing_classes == ["forklift"]
    torch.testing.assert_close(scores(predictor), scores(everything)[:, [1]])


def test_a_vocabulary_needs_no_file(cfg: CfgNode) -> None:
    vocabulary = Vocabulary.load(cfg.MODEL.CLIP.TEXT_WEIGHTS).select(["forklift"])
    expected = scores(pair_detr.Predictor(cfg))[:, [1]]
    cfg.MODEL.CLIP.TEXT_WEIGHTS = "nowhere.npy"
    predictor = pair_detr.Predictor(cfg, vocabulary=vocabulary)
    torch.testing.assert_close(scores(predictor), expected)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy do not exist"):
        pair_detr.Predictor(cfg)


def test_unknown_names_are_encoded(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the config's encoder, checkpoint and prompts."""
    with pytest.raises(
        ValueError, match=r"^dog, owl: not among the 3 classes .*MODEL\.CLIP\.CHECKPOINT.*clip:ViT-B/32"
    ):
        pair_detr.Predictor(cfg, vocabulary=["dog", "helmet", "owl"])

    texts = {"the dog": make_vocabulary(["x"], seed=1), "the helmet": make_vocabulary(["x"], seed=2)}

    class Encoder:
        name = "test"

        def encode(self, words: list[str]) -> torch.Tensor:
            return torch.cat([texts[word].weights for word in words])

    loaded = []
    monkeypatch.setattr(predictor_module, "build_text_encoder", lambda *args: loaded.append(args) or Encoder())
    cfg.MODEL.CLIP.CHECKPOINT, cfg.MODEL.CLIP.ENCODER = "file.pt", "clip:RN50"
    cfg.MODEL.CLIP.PROMPTS = ["the {}"]
    for path in (cfg.MODEL.CLIP.TEXT_WEIGHTS, "nowhere.npy"):
        cfg.MODEL.CLIP.TEXT_WEIGHTS = path
        predictor = pair_detr.Predictor(cfg, vocabulary=["dog", "helmet"])
        assert predictor.metadata.thing_classes == ["dog", "helmet"]
        expected = torch.cat([texts["the dog"].weights, texts["the helmet"].weights])
        torch.testing.assert_close(predictor.model.detector.class_head.texts, expected)
    assert loaded == [("clip:RN50", "file.pt")] * 2


def test_bad_input(cfg: CfgNode, tmp_path: Path) -> None:
    predictor = pair_detr.Predictor(cfg)
    for image in (IMAGE[..., 0], IMAGE[..., :2], IMAGE[..., [0, 1, 2, 0]]):
        with pytest.raises(ValueError, match=r"shape \(60, 80.*\(height, width, 3\), in BGR"):
            predictor(image)
    for vocabulary, message in (
        ("helmet", "give a list of class names"),
        ([], "no class names"),
        (["helmet", "helmet"], 'class "helmet" occurs twice'),
        (make_vocabulary(dim=5), "have 5 columns, but the model was trained with 12"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.set_vocabulary(vocabulary)
    assert predictor.metadata.thing_classes == list(NAMES)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be evaluated.*class_head\.projection\.weight"):
        pair_detr.Predictor(cfg, vocabulary=make_vocabulary(dim=5))
    cfg.MODEL.WEIGHTS = str(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        pair_detr.Predictor(cfg)


def test_linear_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = tiny_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    with caplog.at_level(logging.WARNING, logger="pair_detr"):
        predictor = pair_detr.Predictor(cfg)
    assert "random weights" in caplog.text
    assert predictor.metadata.thing_classes == ["class 0", "class 1", "class 2"]
    assert len(predictor(IMAGE)["instances"]) == 21
    for action in (lambda: pair_detr.Predictor(cfg, vocabulary=["cat"]), lambda: predictor.set_vocabulary(["cat"])):
        with pytest.raises(ValueError, match=r"linear classifier.*MODEL\.CLIP\.TEXT_WEIGHTS is empty"):
            action()
    AtomicCheckpointer(build(cfg), str(tmp_path)).save("model")
    assert torch.load(tmp_path / "model.pth", weights_only=True)["pair_detr"]["class_names"] is None


def test_what_the_package_does_not_have() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Predict'"):
        pair_detr.Predict  # noqa: B018


def test_three_lines(tmp_path: Path, project_root: Path) -> None:
    """A file, a PIL image and an array are the same image; classes come from the checkpoint, not from data."""
    cfg = tiny_cfg(NUM_CLASSES=2)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    model = build(cfg)
    model.class_names = ["cat", "dog"]
    AtomicCheckpointer(model, str(tmp_path)).save("model")
    cfg.DATASETS.TRAIN = ("not_registered",)
    cfg.MODEL.DETR.NUM_CLASSES = 0
    (tmp_path / "config.yaml").write_text(cfg.dump())
    Image.fromarray(IMAGE[:, :, ::-1]).save(tmp_path / "image.png")

    predictor = pair_detr.Predictor.from_files(str(tmp_path / "config.yaml"), str(tmp_path / "model.pth"))
    instances = predictor(tmp_path / "image.png")["instances"]

    assert predictor.metadata.thing_classes == ["cat", "dog"]
    assert len(instances) == 14
    for same in (str(tmp_path / "image.png"), Image.open(tmp_path / "image.png"), IMAGE):
        assert torch.equal(predictor(same)["instances"].pred_boxes.tensor, instances.pred_boxes.tensor)


def test_files_of_every_mode_are_read_upright(tmp_path: Path) -> None:
    rgb = Image.fromarray(IMAGE)
    expected = IMAGE[:, :, ::-1]
    turned = Image.Exif()
    turned[0x0112] = 6  # "rotate by 90 degrees clockwise to see it upright"
    rgb.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(as_format(tmp_path / "turned.png", "BGR"), expected)
    alpha = rgb.copy()
    alpha.putalpha(0)
    alpha.save(tmp_path / "alpha.png")
    assert np.array_equal(as_format(tmp_path / "alpha.png", "BGR"), expected)
    gray = rgb.convert("L")
    assert np.array_equal(as_format(gray, "BGR"), np.repeat(np.asarray(gray)[..., None], 3, axis=2))
    palette = rgb.quantize(16)
    assert np.array_equal(as_format(palette, "BGR"), np.asarray(palette.convert("RGB"))[:, :, ::-1])


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    (tmp_path / "text.png").write_text("no image")
    for name in ("half", "text"):
        with pytest.raises(OSError, match=rf"{name}\.png cannot be read as an image .* Replace"):
            as_format(tmp_path / f"{name}.png", "BGR")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        as_format("nowhere.png", "BGR")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits"):
        as_format(tmp_path / "deep.png", "BGR")
    with pytest.raises(ValueError, match=r"type float32; it must be uint8"):
        as_format(IMAGE.astype(np.float32), "BGR")
    with pytest.raises(TypeError, match="is of type list; give a path"):
        as_format([1], "BGR")
    for empty in (IMAGE[:0], IMAGE[:, :0]):
        with pytest.raises(ValueError, match=r"has no pixels: its shape is \((0, 80|60, 0), 3\)"):
            as_format(empty, "BGR")
    with pytest.raises(ValueError, match="has no pixels: its size is 0x4"):
        as_format(Image.new("RGB", (0, 4)), "BGR")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_models_in_half_precision(variant: str, dtype: torch.dtype) -> None:
    """``predictor.model.half()``: the same detections, as far as the type can tell them apart."""
    cfg = tiny_cfg(variant, MASK__SPATIAL_QUERY=variant != "detr")
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    predictor = pair_detr.Predictor(cfg)
    expected = predictor(IMAGE)["instances"]
    predictor.model.to(dtype)
    found = predictor(IMAGE)["instances"]
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
    torch.testing.assert_close(found.scores, expected.scores, atol=0.02, rtol=0)
    assert found.pred_masks.shape == expected.pred_masks.shape
    batch = [predictor.prepare(IMAGE), predictor.prepare(IMAGE[:40])]
    with torch.no_grad():
        assert len(predictor.model(batch)) == 2


def test_text_classifiers_in_half_precision(cfg: CfgNode) -> None:
    predictor = pair_detr.Predictor(cfg)
    expected = scores(predictor)
    predictor.model.half()
    torch.testing.assert_close(scores(predictor).mean(), expected.mean(), atol=0.01, rtol=0)
    predictor.set_vocabulary(["forklift"])
    assert len(predictor(IMAGE)["instances"]) == 7
