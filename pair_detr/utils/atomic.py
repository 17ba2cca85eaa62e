"""Files and folders that are complete or as they were, at any time."""

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pair_detr.utils.disk_space import explain_full_disk
from pair_detr.utils.file_lock import FileLock, LocksUnsupportedError

# Nothing of the name that is replaced: it may be as long as the file system allows.
_PREFIX = ".pair_detr-"
_NAME = re.compile(re.escape(_PREFIX) + r"[0-9a-f]{16}(\..*)?", re.DOTALL)
# A file's lock is on itself, a folder's on this file in it.
_LOCK = "lock"

# Folders in which this process has removed what others had left.
_cleaned: set[Path] = set()


@contextmanager
def atomic_write(file: str | Path) -> Iterator[Path]:
    """Yields a path to write to, which takes the place of ``file`` when the block ends without an error.

    It is that of an empty file with the suffix of ``file``, from which many writers tell the format. The folder of
    ``file`` is made if need be. What a process leaves there that is killed in the block, the next one removes.

    Raises:
        DiskFullError: there is no space for it; ``file`` is as it was.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    _clean_once(file.parent)
    # The error names the temporary file, or none.
    with explain_full_disk(file):
        temporary, lock = _make_file(file.parent, file.suffix)
        try:
            yield temporary
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
            lock.release()


@contextmanager
def atomic_replace(path: str | Path) -> Iterator[Path]:
    """As :func:`atomic_write`, but nothing is at the path, so that the block may also make a folder there.

    What it replaces may be a folder as well.
    """
    path = Path(path)
    with temporary_folder(path.parent) as folder:
        new, old = folder / "new", folder / "old"
        yield new
        if path.exists() and (path.is_dir() or new.is_dir()):
            # Only a file replaces a file in one step.
            path.rename(old)
        new.replace(path)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder in ``parent``, which the end of the block removes - or the next process, if one is killed."""
    parent.mkdir(parents=True, exist_ok=True)
    _clean_once(parent)
    folder, lock = _make_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary files and folders in ``folder`` of processes that do not run any more."""
    for path in folder.glob(f"{_PREFIX}*"):
        if _NAME.fullmatch(path.name) and not path.is_symlink():
            # It may vanish meanwhile, or be another user's. Without locks nobody knows whether it is in use.
            with suppress(OSError):
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    is_folder = path.is_dir()
    lock = FileLock(path / _LOCK if is_folder else path)
    if lock.acquire():
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _clean_once(folder: Path) -> None:
    folder = folder.resolve()
    # Else the folder would be listed for every file that is written there.
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_abandoned(folder)


def _make_file(folder: Path, suffix: str) -> tuple[Path, FileLock]:
    while True:
        lock = FileLock(_new_path(folder, suffix))
        if _is_ours(lock):
            return lock.file, lock


def _make_folder(parent: Path) -> tuple[Path, FileLock]:
    while True:
        path = _new_path(parent)
        path.mkdir()
        lock = FileLock(path / _LOCK)
        # Between the two steps another process may take it for abandoned.
        with suppress(FileNotFoundError):
            if _is_ours(lock):
                return path, lock


def _is_ours(lock: FileLock) -> bool:
    try:
        return lock.acquire()
    except LocksUnsupportedError:
        return True


def _new_path(folder: Path, suffix: str = "") -> Path:
    return folder / f"{_PREFIX}{secrets.token_hex(8)}{suffix}"
