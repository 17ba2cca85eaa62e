"""Opening files, and whatever addresses Detectron2 knows where it is installed."""

from pathlib import Path
from typing import IO

try:
    from detectron2.utils.file_io import PathManager
except ModuleNotFoundError:
    PathManager = None


def open_binary(path: str) -> IO[bytes]:
    """A file to read, or an address that Detectron2's PathManager knows; an OSError if it cannot be opened."""
    return Path(path).open("rb") if PathManager is None else PathManager.open(path, "rb")
