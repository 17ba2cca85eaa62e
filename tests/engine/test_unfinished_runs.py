"""Folders as killed trainings and copies leave them, and full disks."""

import errno
import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset
from torch import nn

from pair_detr.checkpoint.checkpointer import AtomicCheckpointer, find_checkpoint
from pair_detr.checkpoint.weights import CheckpointError
from pair_detr.engine import argument_parser, main
from pair_detr.engine.user_errors import describe_error
from pair_detr.utils.disk_space import DiskFullError, format_size


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_unfinished_runs")


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """main would set up loggers, which keeps records from caplog."""
    monkeypatch.setattr("pair_detr.engine.launch.setup_logger", lambda *_, **__: None)
    monkeypatch.setattr("pair_detr.engine.launch.default_setup", lambda *_: None)
    caplog.set_level(logging.INFO)


def run(dataset: dict[str, str], folder: Path, *flags: str, **changes: Any) -> dict:
    folder.mkdir(exist_ok=True)
    return main(argument_parser().parse_args([*flags, *tiny_options(dataset, folder, **changes)]))


def iteration(path: Path) -> int:
    content = torch.load(path)
    return {**content, **content["pair_detr"]}["iteration"]


def save(folder: Path, number: int, name: str = "", **state: Any) -> Path:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, number)
    name = name or f"model_{number:07d}"
    AtomicCheckpointer(model, str(folder)).save(name, **(state or {"iteration": number}))
    return folder / f"{name}.pth"


def test_killed_before_its_end_a_training_gets_its_final_checkpoint(
    dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tests = {"DATASETS__TEST": (dataset["NAME"],), "SOLVER__KEEP_CHECKPOINTS": 0}
    whole = run(dataset, tmp_path, SOLVER__MAX_ITER=3, SOLVER__CHECKPOINT_PERIOD=1, **tests)
    final = tmp_path / "model_final.pth"
    expected = torch.load(final)
    # The second time with a schedule that ends before what it has reached.
    for iterations in (3, 2):
        final.unlink()
        (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
        resumed = run(dataset, tmp_path, "--resume", SOLVER__MAX_ITER=iterations, **tests)
        assert str(resumed) == str(whole)
        written = torch.load(final)
        assert iteration(final) == 2
        assert all(torch.equal(written["model"][name], value) for name, value in expected["model"].items())
        assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
        assert f"is of iteration 3, and SOLVER.MAX_ITER is {iterations}." in caplog.text
        assert "It is also written as model_final.pth." in caplog.text
        caplog.clear()
    # A file of a shorter schedule does not stand for the longer one.
    final.write_bytes((tmp_path / "model_0000000.pth").read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    run(dataset, tmp_path, "--resume", SOLVER__MAX_ITER=3)
    assert iteration(final) == 2
    written_at = final.stat().st_mtime_ns
    run(dataset, tmp_path, "--resume", SOLVER__MAX_ITER=3)
    assert final.stat().st_mtime_ns == written_at


def test_without_last_checkpoint_the_newest_is_resumed_or_all_are_set_aside(
    dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(dataset, tmp_path, SOLVER__MAX_ITER=3, SOLVER__CHECKPOINT_PERIOD=1)
    (tmp_path / "last_checkpoint").unlink()
    (tmp_path / "model_final.pth").unlink()
    run(dataset, tmp_path, "--resume", SOLVER__MAX_ITER=4)
    assert f"no file last_checkpoint; trying its newest checkpoint, {tmp_path}/model_0000002.pth" in caplog.text
    assert "Starting training from iteration 3" in caplog.text
    assert iteration(tmp_path / "model_final.pth") == 3

    (tmp_path / "last_checkpoint").unlink()
    run(dataset, tmp_path, SOLVER__MAX_ITER=1)
    aside = {path.name: iteration(path) for path in (tmp_path / "earlier_1").glob("*.pth")}
    assert aside == {f"model_{i:07d}.pth": i for i in (2, 3)} | {"model_final.pth": 3}
    assert iteration(tmp_path / "model_final.pth") == 0


def test_the_newest_is_that_of_the_highest_iteration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the times of files, which copying changes."""

    def newest() -> str | None:
        found = find_checkpoint(str(tmp_path))
        return found and found.path.name

    assert newest() is None
    # Of the end of a shorter schedule, in an earlier release; 10 is before 9 in no order but that of numbers.
    paths = [save(tmp_path, 10_000_000), save(tmp_path, 9_999_999), save(tmp_path, 7), tmp_path / "model_final.pth"]
    torch.save({"model": nn.Linear(2, 2).state_dict(), "iteration": 8}, paths[-1])
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    for time, path in enumerate(paths):
        os.utime(path, (time, time))
    assert newest() == "model_final.pth"
    (tmp_path / "last_checkpoint").unlink()
    # Weights alone, as one downloads them, start no training in the middle.
    torch.save({"model": {}}, tmp_path / "model_99999999.pth")
    assert newest() == "model_10000000.pth"
    model = nn.Linear(2, 2)
    with caplog.at_level(logging.WARNING, "pair_detr"):
        assert AtomicCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)["iteration"] == 10_000_000
    assert model.weight[0, 0] == 10_000_000
    assert "no file last_checkpoint" in caplog.text
    for expected in ("model_9999999.pth", "model_final.pth", "model_0000007.pth"):
        (tmp_path / newest()).write_bytes(b"damaged")
        assert newest() == expected
    (tmp_path / newest()).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"(?s)model_0000007\.pth .*No checkpoint in .* Start anew"):
        newest()
    # It names a file that was not copied.
    save(tmp_path, 3)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    for path in paths:
        path.unlink()
    assert newest() == "model_0000003.pth"
    with caplog.at_level(logging.WARNING, "pair_detr"):
        AtomicCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert "model_0000004.pth, does not exist; trying the newest other" in caplog.text


@contextmanager
def _size_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _full_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    @contextmanager
    def replace(path: Path) -> Iterator[IO[bytes]]:
        with Path("/dev/full").open("wb") as file:
            yield file

    with monkeypatch.context() as patch:
        patch.setattr("pair_detr.checkpoint.checkpointer._replace", replace)
        yield


@pytest.mark.parametrize("full_disk", [_size_limit, _full_device])
def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Any
) -> None:
    checkpointer = AtomicCheckpointer(nn.Linear(1000, 1000), str(tmp_path))
    started = (
        rf"^The disk is full, or a quota or limit is reached: {tmp_path}/model_0000001\.pth could not be written, "
    )
    with full_disk(monkeypatch), pytest.raises(DiskFullError, match=started + r".*There is no earlier checkpoint\."):
        checkpointer.save("model_0000001", iteration=1)
    assert list(tmp_path.iterdir()) == []
    checkpointer.save("model_0000000", iteration=0)
    remedy = rf"with [\d.]+ [kMG]B free\. The checkpoint before, {tmp_path}/model_0000000\.pth, is whole: .*--resume"
    with full_disk(monkeypatch), pytest.raises(DiskFullError, match=started + remedy) as raised:
        checkpointer.save("model_0000001", iteration=1)
    assert describe_error(raised.value) == str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000000.pth"]
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 0


def test_saving_does_not_read_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the message of a full disk needs to know which of them are whole, and they are large."""
    monkeypatch.setattr("pair_detr.checkpoint.search.read_tensor_file", lambda *_, **__: pytest.fail("was read"))
    AtomicCheckpointer(nn.Linear(2, 2), str(tmp_path)).save("model_0000000", iteration=0)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"


def test_a_full_disk_elsewhere_ends_in_one_line() -> None:
    with pytest.raises(OSError) as raised, Path("/dev/full").open("w", buffering=1) as file:
        file.write("a line\n")
    line = describe_error(raised.value)
    assert line.startswith("The disk is full, or a quota or limit is reached: [Errno 28] No space left on device (in ")
    assert "Free space and run the command again" in line
    assert "\n" not in line
    assert "disk" not in describe_error(PermissionError(13, "Permission denied"))
    # The end of a training writes other files, which do not fit either.
    raised.value.__context__ = DiskFullError("The disk is full: model.pth")
    assert describe_error(raised.value) == "The disk is full: model.pth"


@pytest.mark.parametrize("name", ["metrics.json", "events.out.tfevents", "config.yaml", "inference"])
def test_files_of_a_run_that_do_not_fit_are_named(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {
        "metrics.json": "detectron2.utils.events.JSONWriter.write",
        "events.out.tfevents": "detectron2.utils.events.TensorboardXWriter.write",
        "config.yaml": "detectron2.config.CfgNode.dump",
        "inference": "detectron2.engine.defaults.inference_on_dataset",
    }[name]
    monkeypatch.setattr(target, fail)
    with pytest.raises(OSError) as raised:
        run(dataset, tmp_path, SOLVER__MAX_ITER=5, DATASETS__TEST=(dataset["NAME"],))
    line = describe_error(raised.value)
    assert line.startswith(f"The disk is full, or a quota or limit is reached: {tmp_path}/{name}")
    assert line.endswith(
        "Free space and run the command again; a training goes on from its last checkpoint with --resume."
    )


WRITER = """
import logging
from detectron2.utils.logger import setup_logger
from pair_detr.engine import run_program
def main():
    setup_logger("/dev/full", name="pair_detr")
    logging.getLogger("pair_detr").info("a line")
    open("/dev/full", "w", buffering=1).write("a line\\n")
run_program(main)
"""


def test_that_line_is_the_last(tmp_path: Path) -> None:
    """The log does not fit either, neither its lines nor what is left of them at the end."""
    log = tmp_path / "log.txt"
    log.symlink_to("/dev/full")
    program = [sys.executable, "-c", WRITER.replace("/dev/full", str(log))]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr + ended.stdout
    assert ended.stderr.splitlines()[-1].startswith("error: The disk is full")


def test_checkpoints_that_will_not_fit_are_noticed_at_the_start(
    dataset: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(dataset, tmp_path, SOLVER__MAX_ITER=1)
    assert "This training will write" not in caplog.text
    # One more, and the final weights.
    monkeypatch.setattr("pair_detr.engine.checkpoint_hooks.free_space", lambda folder: 1000)
    run(dataset, tmp_path, "--resume", SOLVER__MAX_ITER=2, SOLVER__CHECKPOINT_PERIOD=2)
    (said,) = re.findall(r"will write 1 checkpoints of about ([\d.]+) kB, and .* has 1\.0 kB left", caplog.text)
    tensors = torch.load(tmp_path / "model_0000001.pth")
    states = [
        value for group in tensors["trainer"]["_trainer"]["optimizer"]["state"].values() for value in group.values()
    ]
    written = sum(value.nbytes for value in (*tensors["model"].values(), *states))
    assert float(said) == pytest.approx(written / 1000, rel=0.02)


def test_sizes() -> None:
    sizes = [0, 999, 1000, 1_499_000, 2_500_000_000, 3_000_000_000_000]
    assert [format_size(size) for size in sizes] == ["0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "2.5 GB", "3000.0 GB"]
