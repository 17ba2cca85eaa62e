"""The tool that converts weights."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_helpers import theirs, tiny_state
from model_helpers import build, tiny_resnet_cfg

from pair_detr.checkpoint import METADATA, ConversionError, required_config
from pair_detr.checkpoint.coco_ids import COCO_IDS
from pair_detr.tools.convert_weights import main

pytest.importorskip("safetensors.torch")


@pytest.fixture(autouse=True)
def _no_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's would keep the log of later tests from caplog."""
    monkeypatch.setattr("pair_detr.tools.common.setup_logger", lambda **_: None)


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


@pytest.mark.parametrize("flags", [[], ["--reverse", "official"]])
def test_weights_that_are_not_finite_are_not_converted(tmp_path: Path, flags: list[str]) -> None:
    state = theirs("detr", "detr", num_classes=91)
    state["class_embed.bias"][3] = float("nan")
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"a\.pth is not converted: class_embed\.bias holds NaN or infinity"):
        main([str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), *flags])
    assert not (tmp_path / "b.pth").exists()


def test_the_tool_overwrites_only_on_demand(tmp_path: Path) -> None:
    official, output = save_official(tmp_path / "a.pth"), tmp_path / "b.pth"
    output.write_text("mine")
    with pytest.raises(FileExistsError, match=r"b\.pth exists.*--overwrite"):
        main([str(official), str(output)])
    assert output.read_text() == "mine"
    # Not even then its own input.
    before = official.read_bytes()
    (tmp_path / "link.pth").symlink_to(official)
    for path in (official, tmp_path / "link.pth"):
        with pytest.raises(FileExistsError, match=r"\.pth is the input"):
            main([str(official), str(path), "--overwrite"])
    assert official.read_bytes() == before
    (tmp_path / "link.pth").unlink()
    with pytest.raises(OSError, match=r"OUTPUT: nothing can be written to .*b\.pth"):
        main([str(official), str(output / "c.pth")])
    main([str(official), str(output), "--overwrite", "--keep-91"])
    assert torch.load(output)[METADATA]["num_classes"] == 91
    folder = tmp_path / "folder"
    folder.write_text("a file")
    with pytest.raises(ConversionError, match=r"does not tell .*NUM_HEADS and .*RES5_DILATION.*--config-file"):
        main([str(output), str(folder), "--overwrite", "--reverse", "transformers"])
    config = write_config(tmp_path / "config.yaml")
    for _ in range(2):
        main([str(output), str(folder), "--overwrite", "--reverse", "transformers", "--config-file", str(config)])
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ]
    config.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth", "folder"]
    (folder / "thesis.txt").write_text("years of work")
    for command in ([str(official), str(folder)], [str(output), str(folder), "--reverse", "official"]):
        with pytest.raises(FileExistsError, match=r"folder with thesis\.txt in it"):
            main([*command, "--overwrite"])
    assert (folder / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.DETR.LOSS.CLASSIFICATION", "softmax", "cannot hold .*CLASSIFICATION softmax"),
        ("INPUT.FORMAT", "BGR", "cannot hold .*INPUT.FORMAT BGR"),
    ],
)
def test_models_that_other_code_bases_cannot_have(tmp_path: Path, key: str, value: str, message: str) -> None:
    cfg = tiny_resnet_cfg("conditional_detr")
    cfg.merge_from_list([key, value])
    needs = required_config(cfg)
    torch.save({"model": tiny_state("conditional_detr"), METADATA: {"config": needs}}, tmp_path / "a.pth")
    for target in ("official", "transformers"):
        with pytest.raises(ConversionError, match=message):
            main([str(tmp_path / "a.pth"), str(tmp_path / "b"), "--reverse", target])


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
