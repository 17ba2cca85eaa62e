"""Files that can be read to their end."""

from pathlib import Path


def require_regular_file(file: str | Path) -> None:
    """Makes sure that opening a file returns at once, as it does not with a pipe that nobody writes to.

    Args:
        file: path, where links are followed; one of nothing is left to the reader to complain about.

    Raises:
        OSError: it is something else than a file.
    """
    path = Path(file)
    if path.exists() and not path.is_file():
        kind = IsADirectoryError if path.is_dir() else OSError
        raise kind(f"{file} is a folder, a pipe or a device, not a file")
