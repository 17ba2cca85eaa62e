"""One run at a time in an output folder."""

import atexit
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from detectron2.utils import comm

from pair_detr.utils.file_lock import FileLock, LocksUnsupportedError

logger = logging.getLogger(__name__)

LOCK_FILE = ".run.lock"

_REMEDY = "set OUTPUT_DIR to another folder"
# How long the other run may take to write down who it is.
_SECONDS_TO_READ = 1.0


class FolderInUseError(OSError):
    """Another run writes to the folder."""


def claim_folder(folder: str | Path, remedy: str = _REMEDY) -> None:
    """Makes a folder, if need be, and keeps other runs out of it, until :func:`release_folder` or the process's end.

    Of the processes of a training the first one claims it, for all; they have to call this together. A process may
    claim a folder several times, and releases it as often.

    Args:
        folder: where the run writes.
        remedy: how to choose another one, for messages.

    Raises:
        FolderInUseError: another run, on this machine or on another, has claimed it; the message names that run.
        OSError: it cannot be made or written to.
    """
    error = None
    if comm.is_main_process():
        path = Path(folder).resolve()
        try:
            lock, count = _claims[path] if path in _claims else (_lock(Path(folder), remedy), 0)
            _claims[path] = lock, count + 1
        except OSError as raised:
            error = raised
    # Else the others would write there until the launcher ends them.
    if error := comm.all_gather(error)[0]:
        raise error


def release_folder(folder: str | Path) -> None:
    """Ends a claim; does nothing if there is none."""
    path = Path(folder).resolve()
    if path in _claims:
        lock, count = _claims.pop(path)
        if count > 1:
            _claims[path] = lock, count - 1
        else:
            _unlock(lock)


@contextmanager
def claimed(folder: str | Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Claims a folder for a block; as :func:`claim_folder`."""
    claim_folder(folder, remedy)
    try:
        yield
    finally:
        release_folder(folder)


# With the number of claims of this process, by folder.
_claims: dict[Path, tuple[FileLock, int]] = {}


def _lock(folder: Path, remedy: str) -> FileLock:
    lock = FileLock(folder.resolve() / LOCK_FILE)
    here = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join(sys.argv),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(error, folder, remedy) from error
    try:
        # Others may have made the folder: a link would be written through, and a pipe waited for.
        if lock.file.is_symlink() or (lock.file.exists() and not lock.file.is_file()):
            raise FileExistsError(
                f"{lock.file} is a link, a folder, a pipe or a device, and no run made it: remove it, or {remedy}."
            )
        before = _read(lock.file)
        if not lock.acquire():
            raise FolderInUseError(_describe_use(lock.file, folder, remedy))
        lock.write(json.dumps(here))
        if before.get("host", here["host"]) != here["host"]:
            logger.warning(
                "%s was left by %s. It holds no lock; but if this file system's locks do not reach from one machine to "
                "another, it may still run: see that it does not.",
                lock.file,
                _name(before),
            )
    except LocksUnsupportedError as error:
        other = f" {lock.file} says that {_name(before)} writes there." if before else ""
        logger.warning("%s: %s Two runs in this folder would spoil each other's files.%s", folder, error, other)
        lock.file.write_text(json.dumps(here), encoding="utf-8")
    except (FolderInUseError, FileExistsError):
        raise
    except OSError as error:
        raise _not_writable(error, folder, remedy) from error
    return lock


def _not_writable(error: OSError, folder: Path, remedy: str) -> OSError:
    return type(error)(f"The run cannot write to {folder} ({error.strerror}): {remedy}.")


def _unlock(lock: FileLock) -> None:
    if lock.is_held:
        lock.release()
    else:
        # Where there are no locks, it only tells who writes here.
        lock.file.unlink(missing_ok=True)


def _release_all() -> None:
    while _claims:
        _, (lock, _) = _claims.popitem()
        _unlock(lock)


def _describe_use(file: Path, folder: Path, remedy: str) -> str:
    deadline = time.monotonic() + _SECONDS_TO_READ
    while not (other := _read(file)) and time.monotonic() < deadline:
        time.sleep(0.01)
    text = f"{folder} is in use by another run: {_name(other)}. Wait until it has ended, or {remedy}."
    if other.get("host") not in (None, socket.gethostname()):
        text += f" If that machine is down, remove {file}."
    return text


def _read(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _name(run: dict[str, object]) -> str:
    if not run:
        return "a process that has not said which"
    return f"process {run.get('pid')} on {run.get('host')}, since {run.get('since')} ({run.get('command')})"


atexit.register(_release_all)
if hasattr(os, "register_at_fork"):
    # They are the parent's.
    os.register_at_fork(after_in_child=_claims.clear)
