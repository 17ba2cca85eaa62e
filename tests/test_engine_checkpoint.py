import itertools
import logging
import multiprocessing
import pickle
import time
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from engine_helpers import default_config
from torch import nn

from pair_detr.engine import AtomicCheckpointer, CheckpointError, require_weights


class Counter:
    """State beside the model's."""

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


def test_damage_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_three(tmp_path)
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "pair_detr"):
        resume(tmp_path)
    assert "model_0000003.pth cannot be read" in caplog.text
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="Start anew without --resume"):
        resume(tmp_path)


def test_resume_without_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pair_detr"):
        resume(tmp_path)
    assert "no checkpoint to resume from" in caplog.text


def test_weights_bring_no_other_state(tmp_path: Path) -> None:
    save_three(tmp_path)
    model, counter = nn.Linear(2, 2), Counter(-1)
    checkpointer = AtomicCheckpointer(model, str(tmp_path), counter=counter)
    checkpointer.resume_or_load(str(tmp_path / "model_0000002.pth"), resume=False)
    assert (model.weight[0, 0].item(), counter.value) == (2, -1)


def test_weights_that_do_not_exist() -> None:
    require_weights("")
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS /no/such.pth does not exist.*MODEL.WEIGHTS \"\""):
        require_weights("/no/such.pth")


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    save_three(tmp_path)
    path = tmp_path / "model_0000001.pth"
    require_weights(str(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=rf"{path} cannot be read; it may be incomplete"):
        require_weights(str(path))
    torch.save(Counter(), path)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        require_weights(str(path))


@pytest.mark.parametrize("weights", ["detectron2://ImageNetPretrained/R-50.pkl", "http://127.0.0.1:9/R-50.pkl"])
def test_weights_that_cannot_be_reached(weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(FileNotFoundError, match=rf"MODEL.WEIGHTS {weights} cannot be fetched .*Download the file"):
        require_weights(weights)


def test_weights_of_another_model(tmp_path: Path) -> None:
    save_three(tmp_path)
    weights = str(tmp_path / "model_0000001.pth")
    with pytest.raises(CheckpointError, match=r"2 of its 2 parameters .* such as 0.weight.*MODEL.DETR.VARIANT"):
        AtomicCheckpointer(nn.Sequential(nn.Linear(2, 2))).load(weights)
    with pytest.raises(CheckpointError, match="do not fit the model"):
        AtomicCheckpointer(nn.Linear(3, 3)).load(weights)


def test_complete_requires_every_parameter(tmp_path: Path) -> None:
    save_three(tmp_path)
    model = nn.Linear(2, 2)
    model.extra = nn.Linear(1, 1)
    checkpointer = AtomicCheckpointer(model)
    weights = str(tmp_path / "model_0000001.pth")
    checkpointer.load(weights)
    with pytest.raises(CheckpointError, match=r"2 of its 4 parameters .* such as extra.weight, extra.bias"):
        checkpointer.load(weights, complete=True)


def test_more_than_tensors(tmp_path: Path) -> None:
    """Official DETR checkpoints hold their command line."""
    path = tmp_path / "official.pth"
    torch.save({"model": nn.Linear(2, 2).state_dict(), "args": Counter()}, path)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        AtomicCheckpointer(nn.Linear(2, 2)).load(str(path))


def _resnet(cfg: CfgNode) -> nn.Module:
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def test_model_zoo_backbone(tmp_path: Path) -> None:
    """The format of ImageNetPretrained/torchvision/R-50.pkl: names without prefix, NumPy arrays, a classifier."""
    cfg = default_config()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    zoo = _resnet(cfg)
    weights = {name: torch.randn_like(value).numpy() for name, value in zoo.state_dict().items()}
    content = {"model": {**weights, "stem.fc.weight": torch.randn(1000, 512).numpy()}, "__author__": "torchvision"}
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({**content, "matching_heuristics": True}))

    model = nn.Module()
    model.detector = nn.Module()
    model.detector.backbone = _resnet(cfg)
    model.detector.head = nn.Linear(512, 2)
    head = model.detector.head.weight.clone()
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(path))
    for name, value in model.detector.backbone.state_dict().items():
        assert torch.equal(value, torch.from_numpy(weights[name])), name
    assert torch.equal(model.detector.head.weight, head)


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
