"""Locks on files, which end with the process that holds them, however that ends."""

import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

# What a link names, in a folder that others have made, is not the lock's to write to.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class LocksUnsupportedError(OSError):
    """The file system or the operating system has no locks."""


class FileLock:
    """A lock that one process at a time holds; its file, in an existing folder, is removed when it is released.

    The operating system releases the lock of a process that is killed; the file, which stays then, locks nothing.
    Processes that the holder starts do not share the lock, so that none of them outlives it with the lock in hand.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._descriptor is not None

    def acquire(self, wait: bool = False) -> bool:
        """Takes the lock, if no other process (or other object of this class) holds it, or waits for it.

        Returns:
            whether it is held now.

        Raises:
            LocksUnsupportedError: there are no locks here; the file has been made nevertheless.
            OSError: the file cannot be made.
        """
        while True:
            # Python's descriptors are not inherited by programs that the process starts.
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
            try:
                _lock(descriptor, wait)
                # Else whoever held it has removed the file in the meantime.
                if _is_open_as(self.file, descriptor):
                    self._descriptor, descriptor = descriptor, -1
                    _held.add(self)
                    return True
            except BlockingIOError:
                return False
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def write(self, text: str) -> None:
        """Replaces the content of the file, which other processes may read; the lock has to be held."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        """Removes the file, and lets the lock go; does nothing in a process that does not hold it."""
        if self.is_held:
            # First the file: once the lock is free, it may be another process's.
            self.file.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        _held.discard(self)
        os.close(self._descriptor)
        self._descriptor = None


@contextmanager
def one_at_a_time(file: str | Path, work: str) -> Iterator[bool]:
    """Waits until no other process is in such a block with the same file.

    Args:
        file: of the lock; its folder exists.
        work: what the block does, for messages: "... writes the shapes".

    Yields:
        whether other processes are kept out; where there are no locks, a warning has said that they are not.
    """
    lock = FileLock(file)
    try:
        is_locked = lock.acquire()
        if not is_locked:
            logger.warning("Another process %s: waiting for it to end.", work)
            is_locked = lock.acquire(wait=True)
    except LocksUnsupportedError as error:
        logger.warning("%s Nothing keeps out another process that %s.", error, work)
        lock.file.unlink(missing_ok=True)
        is_locked = False
    try:
        yield is_locked
    finally:
        lock.release()


# Those of this process.
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _lock(descriptor: int, wait: bool) -> None:
    if fcntl is None:
        raise LocksUnsupportedError("This operating system has no locks on files.")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        raise LocksUnsupportedError(f"The file system has no locks ({error.strerror}).") from error


def _is_open_as(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _leave_to_parent() -> None:
    for lock in list(_held):
        lock._close()


if hasattr(os, "register_at_fork"):
    # A lock belongs to the open file, which a forked process shares: it ends when all have closed it.
    os.register_at_fork(after_in_child=_leave_to_parent)
