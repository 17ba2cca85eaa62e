"""One run at a time in an output folder, whatever happens to the others."""

import errno
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset
from process_helpers import FORK, kill, running, start_program

from pair_detr.engine import argument_parser, run
from pair_detr.engine.run_lock import LOCK_FILE, FolderInUseError, claim_folder, claimed, release_folder
from pair_detr.engine.user_errors import WorkerError

fcntl = pytest.importorskip("fcntl", reason="no locks on this system")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_run_lock")


@pytest.fixture
def other_run(tmp_path: Path) -> Iterator[tuple[FORK.Process, Path]]:
    """A process, and the folder that it has claimed."""

    def hold(pipe: Connection) -> None:
        sys.argv = ["train_net.py", "--config-file", "my config.yaml"]
        with claimed(tmp_path / "out"):
            pipe.send(True)
            signal.pause()

    with running(hold) as (process, pipe):
        assert pipe.recv()
        yield process, tmp_path / "out"


def test_the_other_run_is_named_until_it_is_killed(other_run: tuple[FORK.Process, Path], tmp_path: Path) -> None:
    process, folder = other_run
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link", tmp_path / "out" / ".." / "out"):
        with pytest.raises(FolderInUseError) as raised:
            claim_folder(path)
        start, _, end = str(raised.value).partition(", since 2")
        assert start == f"{path} is in use by another run: process {process.pid} on {socket.gethostname()}"
        command = "(train_net.py --config-file 'my config.yaml')"
        assert end.endswith(f"{command}. Wait until it has ended, or set OUTPUT_DIR to another folder.")
    kill(process)
    assert (folder / LOCK_FILE).exists()
    with claimed(folder), claimed(tmp_path / "link"):
        assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
        release_folder(folder)
        assert (folder / LOCK_FILE).exists()
    assert list(folder.iterdir()) == []
    release_folder(folder)


def test_of_runs_that_start_together_one_goes_on(tmp_path: Path) -> None:
    def start(pipe: Connection) -> None:
        pipe.recv()
        try:
            claim_folder(tmp_path / "out")
        except FolderInUseError as error:
            pipe.send(str(error))
            return
        pipe.send("claimed")
        pipe.recv()

    pipes, processes = [], []
    for _ in range(8):
        here, there = FORK.Pipe()
        processes.append(FORK.Process(target=start, args=(there,)))
        processes[-1].start()
        pipes.append(here)
    for pipe in pipes:
        pipe.send("go")
    answers = [pipe.recv() for pipe in pipes]
    winner = processes[answers.index("claimed")]
    assert answers.count("claimed") == 1
    assert all(f"process {winner.pid} on" in answer for answer in answers if answer != "claimed")
    pipes[answers.index("claimed")].send("end")
    for process in processes:
        process.join()
    # It did not release it.
    with claimed(tmp_path / "out"):
        pass


def test_a_run_leaves_the_folder_of_another_as_it_is(
    dataset: dict[str, str], other_run: tuple[FORK.Process, Path]
) -> None:
    _, folder = other_run
    before = (folder / LOCK_FILE).read_text()
    for flags in ([], ["--resume"], ["--eval-only"]):
        with pytest.raises(FolderInUseError, match="is in use by another run"):
            run(argument_parser().parse_args([*flags, *tiny_options(dataset, folder)]))
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(LOCK_FILE, before)]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_nor_does_any_of_several_processes(dataset: dict[str, str], other_run: tuple[FORK.Process, Path]) -> None:
    _, folder = other_run
    with pytest.raises(WorkerError, match="is in use by another run"):
        run(argument_parser().parse_args(["--num-gpus", "2", *tiny_options(dataset, folder)]))
    assert [path.name for path in folder.iterdir()] == [LOCK_FILE]


def test_a_run_that_ends_or_fails_gives_its_folder_back(dataset: dict[str, str], tmp_path: Path) -> None:
    run(argument_parser().parse_args(tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=1)))
    assert not (tmp_path / LOCK_FILE).exists()
    for wrong in ({"MODEL__DETR__NUM_HEADS": 3}, {"DATASETS__TRAIN": ("unknown",)}):
        with pytest.raises((ValueError, KeyError)):
            run(argument_parser().parse_args(tiny_options(dataset, tmp_path, **wrong)))
        assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_killed_with_its_workers_alive_a_run_is_resumed_at_once(
    dataset: dict[str, str], tmp_path: Path, project_root: Path
) -> None:
    options = tiny_options(
        dataset,
        tmp_path,
        SOLVER__MAX_ITER=100000,
        SOLVER__CHECKPOINT_PERIOD=5,
        SOLVER__KEEP_CHECKPOINTS=0,
        DATALOADER__NUM_WORKERS=2,
    )
    process = start_program(str(project_root / "train_net.py"), *options, output=tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "last_checkpoint").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = children.read_text().split() if children.exists() else []
        assert len(workers) == 2 or not children.exists()
        with pytest.raises(FolderInUseError, match=f"process {process.pid} on"):
            claim_folder(tmp_path)
    finally:
        process.kill()
        process.join()
    # It takes them seconds to notice.
    for worker in workers:
        os.kill(int(worker), 0)
    with claimed(tmp_path):
        done = torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text())["iteration"] + 1
        options = tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=done + 1)
        run(argument_parser().parse_args(["--resume", *options]))
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == done
    assert not list(tmp_path.glob(".*"))


def test_folders_that_cannot_be_written(dataset: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=r"The run cannot write to .*file.* \(.+\): set OUTPUT_DIR to another folder"):
            run(argument_parser().parse_args(tiny_options(dataset, folder)))


def test_without_locks_other_runs_are_named_in_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), claimed(tmp_path):
        assert "no locks" in caplog.text and "says that" not in caplog.text
        content = (tmp_path / LOCK_FILE).read_text()
    assert not (tmp_path / LOCK_FILE).exists()
    (tmp_path / LOCK_FILE).write_text(content)
    with caplog.at_level(logging.WARNING), claimed(tmp_path):
        assert f".run.lock says that process {os.getpid()} on" in caplog.text


def test_what_others_put_in_place_of_the_lock_is_neither_written_to_nor_waited_for(tmp_path: Path) -> None:
    """A link would have the file that it names emptied."""
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    lock = tmp_path / "out" / LOCK_FILE
    lock.parent.mkdir()
    for target in (precious, tmp_path / "absent"):
        lock.symlink_to(target)
        with pytest.raises(
            OSError, match=r"out/\.run\.lock is a link, .* remove it, or set OUTPUT_DIR to another folder"
        ):
            claim_folder(lock.parent)
        lock.unlink()
    assert precious.read_text() == "mine"
    assert not (tmp_path / "absent").exists()
    os.mkfifo(lock)
    with pytest.raises(OSError, match=r"out/\.run\.lock is a .*pipe"):
        claim_folder(lock.parent)
    lock.unlink()
    lock.write_text("[" * 1_000_000)
    with claimed(lock.parent):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_what_another_machine_left_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its run may have been killed, or the locks of this file system may not reach from one machine to another."""
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 7, "host": "gpu7", "since": "2025", "command": "train"}))
    with caplog.at_level(logging.WARNING), claimed(tmp_path):
        assert "was left by process 7 on gpu7, since 2025 (train)" in caplog.text
    caplog.clear()
    (tmp_path / LOCK_FILE).write_text("half")
    with claimed(tmp_path):
        assert not caplog.text
