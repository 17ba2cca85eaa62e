"""Files and folders that are complete or as they were, at any time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: str | Path) -> Iterator[Path]:
    """Yields a path to write to, which takes the place of ``file`` when the block ends without an error.

    The path has the suffix of ``file``, from which many writers tell the format; its folder is made if need be.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_any(path: str | Path) -> Iterator[Path]:
    """As :func:`replacing`, but the block may also make a folder, and what it replaces may be one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        # The folder is its owner's alone; what is made inside follows the umask.
        new, old = Path(folder) / "new", Path(folder) / "old"
        yield new
        if path.exists() and (path.is_dir() or new.is_dir()):
            # Only a file replaces a file in one step.
            path.rename(old)
        new.replace(path)
