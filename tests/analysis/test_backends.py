"""The ways to run a model: their names, what they need, and what they detect."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import tiny_cfg, tiny_resnet_cfg
from torch import nn

from pair_detr.analysis import backends
from pair_detr.analysis.backends import Backend, prepare_inference, yardstick_of
from pair_detr.analysis.speed import make_batch


def test_names() -> None:
    assert Backend.parse("torch") == Backend("torch", "fp32")
    assert str(Backend.parse("openvino:bf16")) == "openvino:bf16"
    for text in ("tensorrt", "torch:int8", ":bf16", ""):
        with pytest.raises(ValueError, match="not of the form RUNTIME or RUNTIME:PRECISION"):
            Backend.parse(text)


def test_the_yardstick_is_of_transformers_where_there_is_one() -> None:
    plain, theirs = Backend("plain"), Backend("transformers")
    assert yardstick_of([plain, plain]) == 0
    assert yardstick_of([plain, theirs, Backend("transformers", "bf16")]) == 1


def test_what_a_backend_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    for name, package in (("openvino", r"-e \.\[export\]"), ("transformers", "transformers")):
        with pytest.raises(ImportError, match=f'{name}:fp32: {name} is not installed; run "pip install {package}"'):
            Backend(name).require("cpu", "inference")
    Backend("torch").require("cpu", "training")
    for name in ("onnxruntime", "plain"):
        with pytest.raises(ValueError, match=rf"{name}:fp32: .* a way of inference\. Leave it out"):
            Backend(name).require("cpu", "training")
    with pytest.raises(ValueError, match=r"cudagraphs:bf16 needs a GPU, and MODEL\.DEVICE is cpu"):
        Backend("cudagraphs", "bf16").require("cpu", "inference")
    Backend("cudagraphs").require("cuda:0", "training")


def test_the_same_model_detects_the_same_each_time(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    batch = make_batch(2, (32, 48), 0, 3)
    first, second = (prepare_inference(cfg, Backend("plain"), tmp_path)(batch)() for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.pred_boxes.tensor.equal(b.pred_boxes.tensor)
        assert len(a) == 21
    (half, _) = prepare_inference(cfg, Backend("plain", "bf16"), tmp_path)(batch)()
    assert not half.scores.equal(first[0].scores)
    torch.testing.assert_close(half.scores, first[0].scores, atol=0.05, rtol=0)


def test_the_yardstick_detects_in_the_same_images(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    detect = prepare_inference(tiny_resnet_cfg("conditional_detr"), Backend("transformers", "bf16"), tmp_path)
    results = detect(make_batch(2, (64, 96), 0, 3))()
    assert [len(instances) for instances in results] == [21, 21]


@pytest.mark.parametrize(
    ("name", "compiled"), [("torch:bf16", False), ("compiled:bf16", True), ("cudagraphs:bf16", False)]
)
def test_preparation_for_inference(name: str, compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prepared model casts by itself."""
    asked: list[Any] = []

    class Prepared(nn.Module):
        def forward(self, batch: list[dict]) -> list:
            asked.append(torch.is_autocast_enabled("cpu"))
            return []

    def prepare_for_inference(model: nn.Module, precision: str, compile: bool) -> nn.Module:
        asked.append((model.training, precision, compile))
        return Prepared()

    module = ModuleType("pair_detr.inference")
    module.prepare_for_inference = prepare_for_inference
    monkeypatch.setitem(sys.modules, "pair_detr.inference", module)
    monkeypatch.setattr(backends, "compile_detector", lambda model, backend: asked.append(str(backend)))
    assert prepare_inference(tiny_cfg(), Backend.parse(name), tmp_path)([])() == []
    expected = [(False, "bf16", compiled), *(["cudagraphs:bf16"] if "graphs" in name else []), False]
    assert asked == expected


@pytest.mark.parametrize(("name", "format"), [("onnxruntime", "onnx"), ("openvino:bf16", "openvino")])
def test_exported_models(name: str, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Detector:
        def predict(self, prepared: list[tuple[np.ndarray, tuple[int, int]]]) -> list[tuple]:
            return [(image.shape, image.dtype, int(image[3, 4, 1]), size) for image, size in prepared]

    def load(folder: Path, threads: int) -> Detector:
        asked.append((folder, threads))
        return Detector()

    deployment, runtime = ModuleType("pair_detr.deployment"), ModuleType("pair_detr.runtime")
    deployment.ExportOptions = lambda *options: options
    deployment.export_model = lambda model, cfg, folder, options: asked.append((model.training, folder, options))
    runtime.load = load
    monkeypatch.setitem(sys.modules, "pair_detr.deployment", deployment)
    monkeypatch.setitem(sys.modules, "pair_detr.runtime", runtime)
    cfg = tiny_cfg()
    cfg.TEST.DETECTIONS_PER_IMAGE = 9
    batch = make_batch(2, (16, 24), 0, 3)
    results = prepare_inference(cfg, Backend.parse(name), tmp_path)(batch)()
    precision = Backend.parse(name).precision
    assert asked == [(False, tmp_path, (format, precision, 9)), (tmp_path, torch.get_num_threads())]
    assert results == [((16, 24, 3), np.uint8, int(item["image"][1, 3, 4]), (16, 24)) for item in batch]


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["compiled", "cudagraphs"])
def test_a_compiled_model_detects_on_a_gpu_what_it_does_uncompiled(runtime: str, tmp_path: Path) -> None:
    """More calls than it takes to record a graph, and another batch in the place of the recorded one."""
    cfg = tiny_cfg()
    cfg.MODEL.DEVICE = "cuda"
    detect = prepare_inference(cfg, Backend(runtime), tmp_path)
    expect = prepare_inference(cfg, Backend("torch"), tmp_path)
    batch = make_batch(2, (32, 48), 0, 3)
    steps, expected = [detect(batch), detect(batch[::-1])], expect(batch)()
    for _ in range(3):
        found = [step() for step in steps]
    for images in (found[0], found[1][::-1]):
        for a, b in zip(images, expected, strict=True):
            torch.testing.assert_close(a.scores, b.scores, atol=1e-3, rtol=0)
