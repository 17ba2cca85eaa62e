"""Images that are there more than once, by what is in their files."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pair_detr.utils.path_manager import open_binary

# Files of the same size are compared by their starts, and those that agree as a whole.
_START = 4096
_READERS = 16
_BLOCK = 2**20


def same_files(files: Iterable[str]) -> list[list[str]]:
    """Groups of two or more files with the same content, in the order of the first of each.

    Args:
        files: paths; each is looked at once. Those that cannot be read have no equals.
    """
    groups = [list(dict.fromkeys(files))]
    with ThreadPoolExecutor(_READERS) as readers:
        for key in (_size, _hash_of_start, _hash):
            groups = [part for group in groups for part in _divide(group, key, readers)]
    return groups


def _divide(
    group: Sequence[str], key: Callable[[str], Hashable | None], readers: ThreadPoolExecutor
) -> list[list[str]]:
    by_key: dict[Hashable, list[str]] = defaultdict(list)
    for file, value in zip(group, readers.map(key, group), strict=True):
        if value is not None:
            by_key[value].append(file)
    return [files for files in by_key.values() if len(files) > 1]


def _size(file: str) -> int | None:
    try:
        return os.stat(file).st_size  # noqa: PTH116 (addresses are no paths)
    except OSError:
        return None


def _hash_of_start(file: str) -> str | None:
    return _hash(file, most=_START)


def _hash(file: str, most: int | None = None) -> str | None:
    digest = hashlib.sha256()
    try:
        with open_binary(file) as stream:
            if most is not None:
                digest.update(stream.read(most))
            else:
                while block := stream.read(_BLOCK):
                    digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
