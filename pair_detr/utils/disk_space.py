"""What is said of a disk that is full, or will be."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# No space, no quota left, and the limit of a file's size, which some clusters set instead.
_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REMEDY = "Free space and run the command again; a training goes on from its last checkpoint with --resume."
# torch raises this at the end of a file, whatever the error was that stopped it.
_TORCH_MESSAGES = ("unexpected pos", "PytorchStreamWriter failed")


class DiskFullError(OSError):
    """A file could not be written for want of space; the message names it and what to do."""


@contextmanager
def explain_full_disk(file: Path, remedy: Callable[[], str] = lambda: _REMEDY) -> Iterator[None]:
    """Turns the error of a block that writes ``file``, or files in that folder, to a full disk into one that says so.

    Args:
        file: named by the message.
        remedy: returns what the message ends with; not called unless the disk is full.

    Raises:
        DiskFullError: the disk is full, or the user's share of it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(
            f"The disk is full, or a quota or limit is reached: {file} could not be written, with "
            f"{format_size(free_space(file.parent))} free. {remedy()}"
        ) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Whether that is what an error, or one that it arose from, says."""
    chain = list(_chain(error))
    if any(isinstance(link, DiskFullError) for link in chain):
        return True
    if numbers := {link.errno for link in chain if isinstance(link, OSError) and link.errno}:
        return bool(numbers & _ERRNOS)
    return any(isinstance(link, RuntimeError) and text in str(link) for link in chain for text in _TORCH_MESSAGES)


def explained(error: BaseException) -> DiskFullError | None:
    """The error, among those that this one arose from, that names the file which did not fit."""
    return next((link for link in _chain(error) if isinstance(link, DiskFullError)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def free_space(folder: Path) -> int:
    """Bytes that are left for this user, whose quota may be less. The folder may be one that is still to be made."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def format_size(size: float) -> str:
    """A number of bytes for people, such as "1.5 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
