"""Which files a block of code reads, and whether they are still what they were."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Inode, size in bytes and time of the last change in nanoseconds; None where the file system does not say.
Stamp = tuple[int, int, int] | None

_recordings: list[dict[str, Stamp]] = []


@contextmanager
def recorded_reads() -> Iterator[dict[str, Stamp]]:
    """Yields the stamps of the files and listed folders that the block reads, by path; filled as it reads them.

    Threads that read at the same time, for whatever purpose, are recorded as well.
    """
    recording: dict[str, Stamp] = {}
    _recordings.append(recording)
    try:
        yield recording
    finally:
        # By identity: of nested blocks, which may have read the same, each ends its own.
        _recordings[:] = [other for other in _recordings if other is not recording]


def record_read(path: str | Path) -> None:
    """Tells the blocks of :func:`recorded_reads` of a file that is about to be read, or of a folder to be listed."""
    if _recordings:
        stamp = _stamp(path)
        for recording in _recordings:
            # What was there before the first reading counts.
            recording.setdefault(str(path), stamp)


def are_unchanged(stamps: Mapping[str, Stamp]) -> bool:
    """Whether all files and folders are as they were when they were read."""
    return all(_stamp(path) == stamp for path, stamp in stamps.items())


def _stamp(path: str | Path) -> Stamp:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        # It does not exist, or is an address on the web.
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
