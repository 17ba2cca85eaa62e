"""Files of every kind, whole and damaged, through the reader and the tool."""

import argparse
import json
import logging
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conversion_helpers import BACKBONES, assert_same, laid_out, theirs, tiny_state

from pair_detr.checkpoint import Checkpoint, ConversionError, convert, read_checkpoint, read_state_dict

safetensors = pytest.importorskip("safetensors.torch")


class Ran:
    """What an object of a pickle does when it is loaded shows here."""

    happened = False

    def __reduce__(self) -> tuple:
        return setattr, (Ran, "happened", True)


AUTHORS = ("torchvision", "Caffe2")

# What each code base puts around its weights.
CONTAINERS = {
    "bare": lambda state: state,
    "ordered": lambda state: OrderedDict(state),
    "official": lambda state: {"model": state, "optimizer": {}, "epoch": 49, "args": argparse.Namespace(nheads=4)},
    "mmdet": lambda state: {"meta": {"epoch": 50, "CLASSES": ("a", "b")}, "state_dict": OrderedDict(state)},
    "parallel": lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}},
    "averaged": lambda state: {"model": state, "model_ema": {key: tensor + 1 for key, tensor in state.items()}},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_torch_files(tmp_path: Path, container: str, suffix: str) -> None:
    state = {"a.weight": torch.randn(3), "b": torch.randn(2, 2)}
    path = tmp_path / f"weights{suffix}"
    torch.save(CONTAINERS[container](state), path, _use_new_zipfile_serialization=suffix != ".pt")
    assert_same(read_state_dict(path), state)


def test_arguments_become_hints(tmp_path: Path) -> None:
    args = argparse.Namespace(nheads=4, dilation=True)
    torch.save({"model": theirs("detr", "detr"), "args": args}, tmp_path / "weights.pth")
    config = convert(read_checkpoint(tmp_path / "weights.pth")).metadata["config"]
    assert config["MODEL.DETR.NUM_HEADS"] == 4
    assert config["MODEL.RESNETS.RES5_DILATION"] == 2


def test_which_average_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.ones(1)}}, path)
    with caplog.at_level(logging.WARNING):
        assert read_state_dict(path)["a"] == 0
        assert "also holds averaged weights under 'model_ema'; took those under 'model'" in caplog.text
    assert read_checkpoint(path, entry="model_ema").state["a"] == 1
    with pytest.raises(ConversionError, match=r"has no entry 'ema'; it has model, model_ema"):
        read_checkpoint(path, entry="ema")
    torch.save({"ema_state_dict": {"a": torch.ones(1)}, "epoch": 3}, path)
    with caplog.at_level(logging.WARNING):
        assert read_state_dict(path)["a"] == 1
    assert "took the averaged weights under 'ema_state_dict'" in caplog.text


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("layout", BACKBONES, ids=[layout.name for layout in BACKBONES])
def test_pickles_of_arrays(tmp_path: Path, protocol: int, layout: Any) -> None:
    ours = {key: x for key, x in tiny_state("detr").items() if "backbone" in key}
    expected = {key: x for key, x in ours.items() if not layout.folded_norm or "running" not in key}
    arrays = {key: tensor.numpy() for key, tensor in laid_out(expected, layout).items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays} if layout.folded_norm else content, protocol=protocol))
    converted = convert(read_checkpoint(path))
    assert converted.metadata["layout"] == layout.name
    assert converted.model.keys() == ours.keys()
    assert all(torch.equal(converted.model[key], expected[key]) for key in expected)


def test_detectron2_backbones_say_whose_they_are() -> None:
    state = theirs("detectron2", None)
    needs = {author: convert(Checkpoint(state, hints={"author": author})).metadata["config"] for author in AUTHORS}
    assert needs["torchvision"]["INPUT.FORMAT"] == "RGB"
    assert needs["Caffe2"]["INPUT.FORMAT"] == "BGR"
    assert needs["Caffe2"]["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
    for hints in ({}, {"author": "somebody"}):
        with pytest.raises(ConversionError, match="does not say whether it was trained as torchvision's"):
            convert(Checkpoint(state, hints=hints))


def test_harmless_content_next_to_the_weights(tmp_path: Path) -> None:
    state = theirs("detr", "detr")
    arguments = argparse.Namespace(output_dir=Path("runs"), lr=np.float64(0.1), mean=np.zeros(3))
    torch.save({"model": state, "args": arguments, "best": np.float32(1)}, tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth"), state)


def test_keys_that_are_no_names(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match="0 are no names"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_objects_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = {"model": {"a": np.zeros(1) if name.endswith("pkl") else torch.zeros(1)}, "extra": Ran()}
    if name.endswith("pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ConversionError, match=r"(?s)weights\.\w+ holds more than .*setattr.*--allow-pickle"):
        read_state_dict(path)
    assert not Ran.happened
    try:
        assert read_state_dict(path, allow_pickle=True)["a"] == 0
        assert Ran.happened
    finally:
        Ran.happened = False


def test_objects_of_a_package_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"cmmengine.logging\nHistoryBuffer\n.")
    with pytest.raises(ConversionError, match=r"HistoryBuffer.*--allow-pickle"):
        read_state_dict(path)
    with pytest.raises(ConversionError, match=r"objects of mmengine\. Install it"):
        read_state_dict(path, allow_pickle=True)


def damaged(name: str, path: Path) -> None:
    state = {"a": torch.zeros(3000)}
    if name.endswith(".safetensors"):
        safetensors.save_file(state, path)
    elif name.endswith(".pkl"):
        path.write_bytes(pickle.dumps({"a": np.zeros(3000)}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name != "old.pth")
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "w.pkl", "w.safetensors"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    damaged(name, tmp_path / name)
    with pytest.raises(ConversionError, match=rf"{name} cannot be read; it is incomplete.*Download it again"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "an HTML page, not weights"),
        (b"<html><head>", "an HTML page, not weights"),
        (b"Not Found", 'text, not weights: "Not Found"'),
        (b'{"message": "Bad credentials"}', "text, not weights: .*Bad credentials"),
        ("Zugriff verweigert für".encode() + b"." * 489 + "ü".encode(), "text, not weights: .*verweigert für"),
        (bytes(600), "begins with zeros alone"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_what_is_downloaded_in_place_of_weights(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=rf"weights{suffix} (is )?{message}"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({"epoch": 3, "optimizer": {}}, "is no state dict: epoch, optimizer are no tensors"),
        ({"model": {}}, "entry 'model' holds no tensors"),
        ({"model": {"a": 1}}, "entry 'model' is no state dict: a are no tensors"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ConversionError, match=message):
        read_state_dict(tmp_path / "weights.pth")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(ConversionError, match=r"folder without a config\.json"):
        read_state_dict(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConversionError, match=r"no weights: one of model\.safetensors"):
        read_state_dict(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(ConversionError, match=r"config\.json is not valid JSON"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_folders_of_transformers(tmp_path: Path, kind: str) -> None:
    state = theirs("transformers", "conditional_detr")
    halves = [dict(list(state.items())[i::2]) for i in range(2)]
    (tmp_path / "config.json").write_text(
        json.dumps({"decoder_attention_heads": 4, "dilation": True, "id2label": {"2": "c", "0": "a", "1": "b"}})
    )
    name, save = ("model.safetensors", safetensors.save_file) if "safe" in kind else ("pytorch_model.bin", torch.save)
    if kind.startswith("sharded"):
        weight_map = {key: f"shard{i}{Path(name).suffix}" for i, half in enumerate(halves) for key in half}
        for i, half in enumerate(halves):
            save(half, tmp_path / f"shard{i}{Path(name).suffix}")
        (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        save(state, tmp_path / name)
    checkpoint = read_checkpoint(tmp_path)
    assert_same(checkpoint.state, state)
    metadata = convert(checkpoint).metadata
    assert metadata["class_names"] == ["a", "b", "c"]
    assert metadata["config"]["MODEL.DETR.NUM_HEADS"] == 4
    assert metadata["config"]["MODEL.RESNETS.RES5_DILATION"] == 2
