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
from conversion_helpers import BACKBONES, laid_out, layout_of, tiny_state
from model_helpers import build, tiny_resnet_cfg
from torch import Tensor

from pair_detr.conversion import (
    METADATA,
    Checkpoint,
    ConversionError,
    convert,
    misfits,
    read_checkpoint,
    read_state_dict,
)
from pair_detr.conversion.classes import COCO_IDS, COCO_NAMES
from pair_detr.tools import convert_weights
from pair_detr.tools.convert_weights import main

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(autouse=True)
def _no_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's would keep the log of later tests from caplog."""
    monkeypatch.setattr(convert_weights, "setup_logger", lambda **_: None)


class Ran:
    """What an object of a pickle does when it is loaded shows here."""

    happened = False

    def __reduce__(self) -> tuple:
        return setattr, (Ran, "happened", True)


def theirs(source: str, variant: str | None, num_classes: int = 3) -> dict[str, Tensor]:
    state = tiny_state(variant or "detr", num_classes)
    if variant is None:
        state = {key: tensor for key, tensor in state.items() if "backbone" in key}
    return laid_out(state, layout_of(source, variant))


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


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


def test_detectron2_backbones_of_unknown_origin_say_so(caplog: pytest.LogCaptureFixture) -> None:
    state = theirs("detectron2", None)
    assert convert(Checkpoint(state, hints={"author": "torchvision"})).metadata["config"]["INPUT.FORMAT"] == "RGB"
    with caplog.at_level(logging.WARNING):
        assert "INPUT.FORMAT" not in convert(Checkpoint(state)).metadata["config"]
    assert "does not say which channel order" in caplog.text


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
        (b"Not Found", "cannot be read"),
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
    with pytest.raises(ConversionError, match=r"config\.json is no JSON"):
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


def test_coco_ids_are_those_of_the_official_code() -> None:
    unused = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert sorted(set(range(91)) - unused) == COCO_IDS


@pytest.mark.parametrize(("variant", "rows"), [("conditional_detr", 80), ("detr", 81)])
def test_raw_ids_become_classes(variant: str, rows: int) -> None:
    state = theirs(variant, variant, num_classes=91)
    converted = convert(Checkpoint(state))
    expected = state["class_embed.weight"][[*COCO_IDS, 91][:rows]]
    assert torch.equal(converted.model["detector.class_head.weight"], expected)
    assert len(converted.model["detector.class_head.bias"]) == rows
    assert converted.metadata["num_classes"] == converted.metadata["config"]["MODEL.DETR.NUM_CLASSES"] == 80
    assert converted.metadata["class_names"] == COCO_NAMES
    for options in ({"keep_91": True}, {"num_classes": 91}):
        kept = convert(Checkpoint(state), **options)
        assert_same(kept.model, tiny_state(variant, 91))
        assert kept.metadata["class_names"][:2] == ["N/A", "person"]


def test_detrex_and_official_weights_agree() -> None:
    """detrex keeps the rows of the 80 ids that are used."""
    official = theirs("conditional_detr", "conditional_detr", num_classes=91)
    converted = convert(Checkpoint(official)).model
    detrex = laid_out(converted, layout_of("detrex", "conditional_detr"))
    assert torch.equal(detrex["class_embed.bias"], official["class_embed.bias"][COCO_IDS])
    assert_same(convert(Checkpoint(detrex)).model, converted)


def test_own_91_classes_are_kept() -> None:
    state = theirs("transformers", "conditional_detr", num_classes=91)
    names = [f"name {i}" for i in range(91)]
    own = convert(Checkpoint(state, hints={"class_names": names}))
    assert own.metadata["class_names"] == names
    assert len(own.model["detector.class_head.bias"]) == 91
    misspelt = dict(zip(COCO_IDS, COCO_NAMES, strict=True)) | {72: "tvmonitor"}
    for names in ([f"LABEL_{i}" for i in range(91)], [misspelt.get(i, "street sign") for i in range(91)]):
        metadata = convert(Checkpoint(state, hints={"class_names": names})).metadata
        assert metadata["class_names"] == COCO_NAMES


def test_the_number_of_classes_can_be_required() -> None:
    state = theirs("detr", "detr")
    assert convert(Checkpoint(state), num_classes=3).metadata["num_classes"] == 3
    with pytest.raises(ConversionError, match="for 3 classes, --num-classes is 80"):
        convert(Checkpoint(state), num_classes=80)


def test_misfits_with_a_config() -> None:
    cfg = tiny_resnet_cfg("conditional_detr", NUM_QUERIES=20)
    settings = convert(Checkpoint(theirs("conditional_detr", "conditional_detr"))).metadata["config"]
    assert misfits(settings, cfg) == []
    cfg.MODEL.DETR.NUM_CLASSES = 0
    assert misfits(settings, cfg) == []
    cfg.INPUT.FORMAT = "BGR"
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    cfg.MODEL.RESNETS.DEPTH = 101
    assert misfits(settings, cfg) == [
        "INPUT.FORMAT is BGR, the weights need RGB",
        "MODEL.PIXEL_STD is [1.0, 1.0, 1.0], the weights need [58.395, 57.12, 57.375]",
        "MODEL.RESNETS.DEPTH is 101, the weights need 50",
    ]


def save_official(path: Path, variant: str = "conditional_detr") -> Path:
    torch.save({"model": theirs(variant, variant, num_classes=91)}, path)
    return path


def test_the_tool_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    official, converted, back = save_official(tmp_path / "a.pth"), tmp_path / "new" / "b.pth", tmp_path / "c.pth"
    with caplog.at_level(logging.INFO):
        main([str(official), str(converted), "--num-classes", "80"])
    assert "official Conditional DETR, 414 tensors" in caplog.text
    checkpoint = torch.load(converted)
    assert checkpoint["__author__"] == "pair_detr"
    assert checkpoint[METADATA]["config"]["MODEL.DETR.NUM_QUERIES"] == 20
    build(tiny_resnet_cfg("conditional_detr", NUM_QUERIES=20, NUM_CLASSES=80)).load_state_dict(checkpoint["model"])
    main([str(converted), str(back), "--reverse", "official"])
    original, returned = torch.load(official)["model"], torch.load(back)["model"]
    assert returned.keys() == original.keys()
    for key in original:
        rows = COCO_IDS if key.startswith("class_embed") else slice(None)
        assert torch.equal(returned[key][rows], original[key][rows]), key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "c.pth", "new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.pth"]


def test_the_tool_overwrites_only_on_demand(tmp_path: Path) -> None:
    official, output = save_official(tmp_path / "a.pth"), tmp_path / "b.pth"
    output.write_text("mine")
    with pytest.raises(FileExistsError, match=r"b\.pth exists.*--overwrite"):
        main([str(official), str(output)])
    assert output.read_text() == "mine"
    main([str(official), str(output), "--overwrite", "--keep-91"])
    assert torch.load(output)[METADATA]["num_classes"] == 91
    folder = tmp_path / "folder"
    folder.write_text("a file")
    for _ in range(2):
        main([str(output), str(folder), "--overwrite", "--reverse", "transformers"])
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth", "folder"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official, output = save_official(tmp_path / "a.pth"), tmp_path / "b.pth"
    output.write_text("mine")

    def fail_half_way(content: object, path: Path) -> None:
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail_half_way)
    with pytest.raises(OSError, match="No space"):
        main([str(official), str(output), "--overwrite"])
    assert output.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth"]


def write_config(path: Path, **detr: Any) -> Path:
    path.write_text(tiny_resnet_cfg("conditional_detr", NUM_QUERIES=20, NUM_CLASSES=80, **detr).dump())
    return path


def test_the_tool_compares_with_a_config(tmp_path: Path) -> None:
    official, output = save_official(tmp_path / "a.pth"), tmp_path / "b.pth"
    wrong = write_config(tmp_path / "wrong.yaml", DEC_LAYERS=6)
    with pytest.raises(ConversionError, match=r"(?s)does not fit --config-file:.*DEC_LAYERS is 6, the weights need 3"):
        main([str(official), str(output), "--config-file", str(wrong)])
    assert not output.exists()
    main([str(official), str(output), "--config-file", str(write_config(tmp_path / "right.yaml"))])
    assert torch.load(output)[METADATA]["config"]["MODEL.DETR.NUM_HEADS"] == 4
    main([str(output), str(tmp_path / "folder"), "--reverse", "transformers"])
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["encoder_attention_heads"] == 4


def test_the_tool_refuses_its_own(tmp_path: Path) -> None:
    torch.save({"model": tiny_state("detr")}, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match="holds this package's weights already"):
        main([str(tmp_path / "a.pth"), str(tmp_path / "b.pth")])
