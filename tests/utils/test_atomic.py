"""Files and folders that are complete or as they were, whatever happens to those who write them."""

import errno
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from process_helpers import kill, running

from pair_detr.utils import atomic
from pair_detr.utils.atomic import atomic_replace, atomic_write, temporary_folder
from pair_detr.utils.disk_space import DiskFullError


@pytest.fixture(autouse=True)
def _nothing_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_cleaned", set())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    with atomic_write(file) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == file.parent
        temporary.write_text("first")
        assert not file.exists()
    with pytest.raises(KeyboardInterrupt), atomic_write(file) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in file.parent.iterdir()] == [("a.txt", "first")]
    umask = os.umask(0o027)
    try:
        with atomic_write(file) as temporary:
            temporary.write_text("second")
    finally:
        os.umask(umask)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("second", 0o640)


def test_writers_of_one_file_do_not_share_a_temporary_one(tmp_path: Path) -> None:
    """Nor do processes of two containers, which may have the same number."""
    with atomic_write(tmp_path / "a.txt") as first:
        first.write_text("first")
        with atomic_write(tmp_path / "a.txt") as second:
            assert second != first
            second.write_text("second")
        assert (tmp_path / "a.txt").read_text() == "second"
    assert (tmp_path / "a.txt").read_text() == "first"


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    file = tmp_path / f"{'n' * 251}.txt"
    with atomic_write(file) as temporary:
        temporary.write_text("text")
    with atomic_replace(file) as temporary:
        temporary.mkdir()
    assert file.is_dir() and list(tmp_path.iterdir()) == [file]


def test_what_killed_processes_left_is_removed_and_what_is_in_use_stays(tmp_path: Path) -> None:
    def write(pipe: Connection) -> None:
        with atomic_write(tmp_path / "a.txt") as file, temporary_folder(tmp_path) as folder:
            file.write_text("half")
            (folder / "new" / "deep").mkdir(parents=True)
            pipe.send((file, folder))
            signal.pause()

    own = [tmp_path / name for name in (".pair_detr-notes", ".pair_detr-0123456789abcdef0", "pair_detr-0.txt")]
    for path in own:
        path.touch()
    with running(write) as (dead, first), running(write) as (_, second):
        left, used = first.recv(), second.recv()
        kill(dead)
        with atomic_write(tmp_path / "b.txt") as temporary:
            temporary.write_text("whole")
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in used)
        assert all(path.exists() for path in own)
    with atomic_write(tmp_path / "c.txt"):
        pass
    # Once for each process and folder.
    assert all(path.exists() for path in used)
    atomic._cleaned.clear()
    with temporary_folder(tmp_path):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([*own, tmp_path / "b.txt", tmp_path / "c.txt"])


def test_without_locks_nothing_is_taken_for_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    with atomic_write(tmp_path / "a.txt") as first, temporary_folder(tmp_path) as folder:
        atomic._cleaned.clear()
        with atomic_write(tmp_path / "a.txt") as second:
            second.write_text("second")
        assert first.exists() and folder.exists()
        first.write_text("first")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "first")]


def test_a_full_disk_names_the_file_and_leaves_it(tmp_path: Path) -> None:
    """The error of the system names the temporary file, or none."""
    file = tmp_path / "results.json"
    file.write_text("before")
    started = rf"^The disk is full, .*: {file} could not be written, with [\d.]+ [kMG]B free\. Free space"
    with pytest.raises(DiskFullError, match=started), atomic_write(file), Path("/dev/full").open("w") as full:
        full.write("after")
        full.flush()
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
