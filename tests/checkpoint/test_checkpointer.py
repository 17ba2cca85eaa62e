import itertools
import logging
import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pair_detr.checkpoint import METADATA
from pair_detr.checkpoint.checkpointer import AtomicCheckpointer, find_checkpoint
from pair_detr.checkpoint.weights import CheckpointError, read_weights
from pair_detr.modeling import Detector


class LinearDetector(nn.Linear):
    extra_parts = Detector.extra_parts
    warm_start_aliases = Detector.warm_start_aliases


class Counter:
    """State in addition to the model's."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


def save_three(folder: Path) -> None:
    """Checkpoints 1, 2 and 3 of a layer filled with their number."""
    for number in (1, 2, 3):
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, number)
        AtomicCheckpointer(model, str(folder), counter=Counter(number)).save(f"model_{number:07d}", iteration=number)


def resume(folder: Path) -> tuple[float, int]:
    model, counter = nn.Linear(2, 2), Counter()
    AtomicCheckpointer(model, str(folder), counter=counter).resume_or_load("", resume=True)
    return model.weight[0, 0].item(), counter.value


def test_round_trip(tmp_path: Path) -> None:
    save_three(tmp_path)
    assert resume(tmp_path) == (3, 3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last_checkpoint", "model_0000001.pth", "model_0000002.pth", "model_0000003.pth"]


def test_failed_write_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_three(tmp_path)

    def fail_half_way(state: object, file: object) -> None:
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail_half_way)
    checkpointer = AtomicCheckpointer(nn.Linear(2, 2), str(tmp_path))
    for name in ("model_0000004", "model_0000003"):
        with pytest.raises(OSError, match="No space"):
            checkpointer.save(name)
    assert len(list(tmp_path.iterdir())) == 4
    assert resume(tmp_path) == (3, 3)


def test_checkpoint_of_the_same_name_is_replaced_not_rewritten(tmp_path: Path) -> None:
    save_three(tmp_path)
    path = tmp_path / "model_0000003.pth"
    before = path.read_bytes()
    with path.open("rb") as file:
        AtomicCheckpointer(nn.Linear(2, 2), str(tmp_path)).save("model_0000003")
        assert file.read() == before != path.read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "absent"])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save_three(tmp_path)
    newest = tmp_path / "model_0000003.pth"
    content = newest.read_bytes()
    if damage == "absent":
        newest.unlink()
    else:
        newest.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"x" * 999}[damage])
    assert resume(tmp_path) == (2, 2)


def flip_a_bit(path: Path) -> None:
    """In the weights; torch would load them as they then are."""
    content = bytearray(path.read_bytes())
    position = content.index(torch.load(path)["model"]["weight"].numpy().tobytes())
    content[position + 3] ^= 1
    path.write_bytes(content)


def test_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_three(tmp_path)
    newest = tmp_path / "model_0000003.pth"
    flip_a_bit(newest)
    assert torch.load(newest)["model"]["weight"][0, 0] not in (2, 3)
    with caplog.at_level(logging.WARNING, "pair_detr"):
        assert resume(tmp_path) == (2, 2)
    assert "model_0000003.pth is damaged: " in caplog.text
    assert find_checkpoint(str(tmp_path)).path.name == "model_0000002.pth"
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS .*model_0000003\.pth is damaged: .*its checksum"):
        read_weights(str(newest))


@pytest.mark.parametrize(
    "content",
    [
        b"model_0000003.pth\xff",
        "model_0000003.pth".encode("utf-16"),
        b"",
        bytes(17),
        b"../model_0000009.pth",
        b"{folder}/other/model_0000009.pth",
        b"sub/model_0000009.pth",
        b"s3://bucket/model_0000009.pth",
        b"model_0000009.pkl",
        b"model_0000001.pth\nmodel_0000009.pth",
    ],
)
def test_last_checkpoint_names_a_checkpoint_of_its_folder(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    for path in (folder, folder / "sub", tmp_path / "other"):
        path.mkdir()
    save_three(folder)
    for name in ("../model_0000009.pth", "sub/model_0000009.pth", "../other/model_0000009.pth", "model_0000009.pkl"):
        (folder / name).write_bytes((folder / "model_0000001.pth").read_bytes())
    (folder / "last_checkpoint").write_bytes(content.replace(b"{folder}", str(tmp_path).encode()))
    with caplog.at_level(logging.WARNING, "pair_detr"):
        assert resume(folder) == (3, 3)
    assert "last_checkpoint does not name a .pth file of that folder" in caplog.text


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "large"])
def test_last_checkpoint_is_no_pipe_or_device(tmp_path: Path, kind: str) -> None:
    """One would be waited for, the other has no end."""
    save_three(tmp_path)
    last = tmp_path / "last_checkpoint"
    last.unlink()
    if kind == "pipe":
        os.mkfifo(last)
    elif kind == "large":
        last.write_bytes(b"a" * 10_000 + b".pth")
    else:
        last.symlink_to("/dev/full")
    assert resume(tmp_path) == (3, 3)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"model": 5}, {"model": {}, METADATA: [1]}])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: object) -> None:
    save_three(tmp_path)
    torch.save(content, tmp_path / "model_0000003.pth")
    assert resume(tmp_path) == (2, 2)
    assert find_checkpoint(str(tmp_path)).path.name == "model_0000002.pth"


STATES = {
    "nothing": (b"", "is empty"),
    "text": (b"Access denied", 'is text, not weights: "Access denied"'),
    "a page": (b"<!DOCTYPE html>\n<title>Sign in</title>", "is an HTML page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
    "zeros": (bytes(999), "begins with zeros alone"),
}


@pytest.mark.parametrize("kind", STATES)
def test_what_is_not_a_checkpoint_is_named(tmp_path: Path, kind: str) -> None:
    """By --resume and as MODEL.WEIGHTS."""
    content, message = STATES[kind]
    path = tmp_path / "model_0000001.pth"
    path.write_bytes(content)
    (tmp_path / "last_checkpoint").write_text(path.name)
    for read in (lambda: find_checkpoint(str(tmp_path)), lambda: resume(tmp_path), lambda: read_weights(str(path))):
        with pytest.raises(CheckpointError, match=f"model_0000001.pth {message}"):
            read()


def test_damage_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_three(tmp_path)
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "pair_detr"):
        resume(tmp_path)
    assert "model_0000003.pth is empty" in caplog.text
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="Start anew without --resume"):
        resume(tmp_path)


class Tensors(Counter):
    """State in addition to the model's, with a tensor."""

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "averages": [torch.tensor(float(self.value))]}


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    save_three(tmp_path)
    model = nn.Linear(2, 2)
    model.register_buffer("statistics", torch.zeros(3))
    for tensor, name in ((model.weight, "model.weight"), (model.statistics, "model.statistics")):
        for bad in (math.nan, math.inf):
            before = tensor.detach().clone()
            tensor.data.view(-1)[1] = bad
            with pytest.raises(FloatingPointError, match=rf"model_0000003\.pth is not written: {name} holds .*BASE_LR"):
                AtomicCheckpointer(model, str(tmp_path)).save("model_0000003", iteration=3)
            tensor.data.copy_(before)
    with pytest.raises(FloatingPointError, match=r"averages\.0 holds NaN"):
        AtomicCheckpointer(model, str(tmp_path), averages=Tensors(math.nan)).save("model_0000004")
    # The checkpoints that are there, and the one to resume from, stay.
    assert resume(tmp_path) == (3, 3)
    assert len(list(tmp_path.iterdir())) == 4
    AtomicCheckpointer(model, str(tmp_path)).save("model_0000004")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"


@pytest.mark.parametrize("spoiled", ["model.bias", "counter.averages.0"])
def test_resume_falls_back_to_a_finite_checkpoint(
    tmp_path: Path, spoiled: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Earlier versions wrote what was not finite."""
    save_three(tmp_path)
    for number in (3, 2, 1):
        path = tmp_path / f"model_{number:07d}.pth"
        content = torch.load(path)
        content["counter"]["averages"] = [torch.ones(2)]
        entry, name = spoiled.split(".")[:2]
        tensor = content[entry][name] if entry == "model" else content[entry][name][0]
        tensor[1] = math.nan
        times = path.stat()
        torch.save(content, path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if number > 1:
            with caplog.at_level(logging.WARNING, "pair_detr"):
                assert resume(tmp_path) == (number - 1, number - 1)
            assert f"{path} is of a training that has diverged: {spoiled} holds NaN or infinity. Trying" in caplog.text
    with pytest.raises(CheckpointError, match=rf"(?s){spoiled} holds NaN.*Start anew without --resume"):
        resume(tmp_path)
    # State in addition to the model's does not matter to those who do not load it.
    if spoiled.startswith("counter"):
        AtomicCheckpointer(nn.Linear(2, 2), str(tmp_path)).resume_or_load("", resume=True)


def test_resume_without_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pair_detr"):
        resume(tmp_path)
    assert "no checkpoint to resume from" in caplog.text


def test_weights_bring_no_other_state(tmp_path: Path) -> None:
    save_three(tmp_path)
    path = tmp_path / "model_0000002.pth"
    content = torch.load(path)
    content["model"] = {f"detector.{name}": value for name, value in content["model"].items()}
    torch.save(content, path)
    model, counter = nn.ModuleDict({"detector": LinearDetector(2, 2)}), Counter(-1)
    checkpointer = AtomicCheckpointer(model, str(tmp_path), counter=counter)
    checkpointer.resume_or_load(str(path), resume=False)
    assert (model["detector"].weight[0, 0].item(), counter.value) == (2, -1)


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    save_three(tmp_path)
    checkpoint = str(tmp_path / "model_0000001.pth")
    with pytest.raises(CheckpointError, match=r"2 of its 2 parameters .* such as 0.weight.*another OUTPUT_DIR"):
        AtomicCheckpointer(nn.Sequential(nn.Linear(2, 2))).load(checkpoint)
    with pytest.raises(CheckpointError, match="not of this model"):
        AtomicCheckpointer(nn.Linear(3, 3)).load(checkpoint)
    model = nn.Linear(2, 2)
    model.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"2 of its 4 parameters .* such as extra.weight, extra.bias"):
        AtomicCheckpointer(model).load(checkpoint)


def test_what_has_to_be_known_of_weights_is_saved(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.class_names, model.category_ids = ["cat", "dog"], (7, "x9")
    AtomicCheckpointer(model, str(tmp_path), required_config={"INPUT.FORMAT": "BGR"}).save("model")
    expected = {"class_names": ["cat", "dog"], "category_ids": [7, "x9"], "config": {"INPUT.FORMAT": "BGR"}}
    assert torch.load(tmp_path / "model.pth")["pair_detr"] == expected


def _save_forever(folder: Path) -> None:
    checkpointer = AtomicCheckpointer(nn.Linear(1000, 1000), str(folder))
    for number in itertools.count():
        checkpointer.save(f"model_{number % 3:07d}", iteration=number)


@pytest.mark.parametrize("delay", [0.0, 0.011, 0.023, 0.037])
def test_kill(tmp_path: Path, delay: float) -> None:
    """Killed at any moment, the process leaves a complete checkpoint."""
    process = multiprocessing.get_context("fork").Process(target=_save_forever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "last_checkpoint").exists():
        assert process.is_alive()
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()
    extra = AtomicCheckpointer(nn.Linear(1000, 1000), str(tmp_path)).resume_or_load("", resume=True)
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{extra['iteration'] % 3:07d}.pth"
