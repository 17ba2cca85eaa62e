"""Batched prediction by pair_detr.Predictor, and its precision."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from inference_helpers import assert_same_detections
from model_helpers import build, tiny_cfg
from PIL import Image

import pair_detr
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.inference.precision import DTYPES

SIZES = [(60, 80), (80, 60), (60, 80), (30, 40), (80, 60), (50, 90), (60, 80)]


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = tiny_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 96
    AtomicCheckpointer(build(cfg), str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    return cfg


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{i}.png" for i in range(len(SIZES))]
    random = np.random.default_rng(0)
    for file, size in zip(files, SIZES, strict=True):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
    return files


def test_results_of_batches_are_those_of_single_images(
    cfg: CfgNode, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = pair_detr.Predictor(cfg)
    expected = [predictor(file) for file in files]
    predict, batches = predictor.predict, []
    monkeypatch.setattr(predictor, "predict", lambda batch: batches.append(len(batch)) or predict(batch))
    assert_same_detections(predictor(files), expected)
    # Of the aspect ratio 4:3, whatever the size; of 3:4; and the other.
    assert batches == [4, 2, 1]
    images = (Image.open(file) for file in files)
    assert_same_detections(list(predictor.stream(images, batch_size=2, window=3)), expected)
    batches.clear()
    assert len(list(predictor.stream(files, max_padding=0.9))) == len(files)
    assert batches == [7]
    assert predictor([]) == []


def test_images_of_a_fixed_size_share_batches(cfg: CfgNode, files: list[Path]) -> None:
    cfg.INPUT.FIXED_SIZE = (64, 96)
    predictor = pair_detr.Predictor(cfg)
    expected = [predictor(file) for file in files]
    assert {predictor.prepare_sized(file)[1] for file in files} == {(64, 96)}
    assert_same_detections(predictor(files), expected)


def test_files_that_cannot_be_read_are_named_after_the_results_before_them(cfg: CfgNode, files: list[Path]) -> None:
    predictor = pair_detr.Predictor(cfg)
    files[3].write_text("no image")
    results = predictor.stream(files, batch_size=4)
    for _ in range(3):
        assert len(next(results)["instances"])
    with pytest.raises(OSError, match=r"3\.png cannot be read as an image"):
        next(results)


def test_a_source_is_read_no_further_than_the_window(cfg: CfgNode, files: list[Path]) -> None:
    taken = []

    def source() -> Iterator[Path]:
        for file in files:
            taken.append(file)
            yield file

    results = pair_detr.Predictor(cfg).stream(source(), batch_size=1, window=1)
    next(results)
    assert len(taken) == 1
    next(results)
    assert len(taken) == 2


def test_precision_is_that_of_the_config_unless_another_is_given(cfg: CfgNode) -> None:
    def stored(predictor: pair_detr.Predictor) -> torch.dtype:
        assert not predictor.model.training
        return predictor.model.detector.encoder.layers[0].ffn.linear1.weight.dtype

    assert stored(pair_detr.Predictor(cfg)) == torch.float32
    assert stored(pair_detr.Predictor(cfg, precision="bf16")) == torch.bfloat16
    cfg.TEST.PRECISION = "fp16"
    assert stored(pair_detr.Predictor(cfg)) == torch.float16
    assert stored(pair_detr.Predictor(cfg, precision="fp32")) == torch.float32
    assert stored(pair_detr.Predictor(cfg, precision="auto")) in DTYPES.values()
    with pytest.raises(ValueError, match="precision is 'half'; it must be one of fp32"):
        pair_detr.Predictor(cfg, precision="half")
