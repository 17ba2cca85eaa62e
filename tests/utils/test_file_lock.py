"""Locks between processes: one holds them, and its death ends them."""

import errno
import logging
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from process_helpers import FORK, kill, running

from pair_detr.utils import file_lock
from pair_detr.utils.file_lock import FileLock, LocksUnsupportedError, one_at_a_time

fcntl = pytest.importorskip("fcntl", reason="no locks on this system")


def test_one_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    def hold(pipe: Connection) -> None:
        lock = FileLock(tmp_path / "lock")
        pipe.send(lock.acquire())
        lock.write("the other one")
        pipe.send(True)
        signal.pause()

    with running(hold) as (process, pipe):
        assert pipe.recv() and pipe.recv()
        lock = FileLock(tmp_path / "lock")
        assert not lock.acquire()
        assert lock.file.read_text() == "the other one"
        kill(process)
        # What the dead process has left locks nothing.
        assert lock.file.exists() and lock.acquire()
    lock.write("new")
    assert lock.file.read_text() == "new"
    assert not FileLock(lock.file).acquire()
    lock.release()
    lock.release()
    assert not lock.file.exists()


def test_processes_that_outlive_the_holder_do_not_keep_it(tmp_path: Path) -> None:
    """As the workers of a data loader do, for some seconds or, stuck in a read, for long."""

    def hold(pipe: Connection) -> None:
        lock = FileLock(tmp_path / "lock")
        assert lock.acquire()
        worker = os.fork()
        if worker == 0:
            lock.release()  # It has nothing to release.
            signal.pause()
        pipe.send(worker)
        signal.pause()

    with running(hold) as (process, pipe):
        worker = pipe.recv()
        try:
            time.sleep(0.1)
            assert (tmp_path / "lock").exists() and not FileLock(tmp_path / "lock").acquire()
            kill(process)
            os.kill(worker, 0)
            lock = FileLock(tmp_path / "lock")
            assert lock.acquire()
            lock.release()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_blocks_of_several_processes_run_in_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "count").write_text("0")

    def count() -> None:
        for _ in range(40):
            with one_at_a_time(tmp_path / "lock", "counts") as is_locked:
                assert is_locked
                before = int((tmp_path / "count").read_text())
                time.sleep(0.0005)
                (tmp_path / "count").write_text(str(before + 1))

    processes = [FORK.Process(target=count) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "160"
    assert not (tmp_path / "lock").exists()


def test_waiting_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def hold(pipe: Connection) -> None:
        with one_at_a_time(tmp_path / "lock", "holds"):
            pipe.send(True)
            time.sleep(0.3)
        pipe.send(True)
        signal.pause()

    with running(hold) as (_, pipe):
        pipe.recv()
        with one_at_a_time(tmp_path / "lock", "makes the shapes"):
            assert pipe.poll(5)
    assert "Another process makes the shapes: waiting for it to end." in caplog.text


@pytest.mark.parametrize("reason", ["system", "file system"])
def test_without_locks_work_goes_on_with_a_warning(
    tmp_path: Path, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if reason == "system":
        monkeypatch.setattr(file_lock, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LocksUnsupportedError, match=f"{reason} has no locks"):
        FileLock(tmp_path / "lock").acquire()
    with caplog.at_level(logging.WARNING), one_at_a_time(tmp_path / "lock", "writes") as is_locked:
        assert not is_locked
    assert "Nothing keeps out another process that writes." in caplog.text
    assert list(tmp_path.iterdir()) == []
