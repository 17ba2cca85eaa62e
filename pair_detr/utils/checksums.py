"""What a file is, by its content."""

import hashlib
from functools import lru_cache
from pathlib import Path

_CHUNK = 1 << 20


@lru_cache(maxsize=16)
def sha256_of(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits; it is read once in a process."""
    return compute_sha256(file)


def compute_sha256(file: Path) -> str:
    """As :func:`sha256_of`, of a file that may change meanwhile."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
