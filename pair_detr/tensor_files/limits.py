"""Small files that stand for more than memory holds: archives, containers and tensors that repeat what they hold."""

from collections.abc import Mapping
from typing import Any
from zipfile import ZipInfo

import torch
from torch import Tensor

# torch stores tensors as they are; whoever compressed them gained less.
_MOST_COMPRESSION = 20
# With each time that something is referred to counted.
_MOST_CONTAINERS = 1_000_000
# Of tensors with more elements than are stored, as expand() makes them.
_MOST_REPEATED_BYTES = 2**30


def find_excess_in_archive(parts: list[ZipInfo], size: int) -> str:
    """What of an archive's parts, by their headers, is out of proportion to its size in bytes; "" for nothing."""
    unpacked = sum(part.file_size for part in parts)
    if unpacked <= _MOST_COMPRESSION * size:
        return ""
    return f"its {size} bytes unpack to {unpacked}"


def find_excess(content: Any) -> str:
    """What of the content of a file is out of proportion to what is stored of it; "" for nothing."""
    tensors: dict[int, Tensor] = {}
    if _count(content, {}, tensors) > _MOST_CONTAINERS:
        return f"it holds more than {_MOST_CONTAINERS} containers, or some in themselves"
    repeated = sum(tensor.nbytes for tensor in tensors.values() if _is_repeated(tensor))
    return f"its tensors repeat a few numbers over {repeated} bytes" if repeated > _MOST_REPEATED_BYTES else ""


def _count(content: Any, counts: dict[int, float], tensors: dict[int, Tensor]) -> float:
    """The containers and tensors in something, itself included; infinite for what contains itself."""
    if isinstance(content, Tensor):
        tensors[id(content)] = content
        return 1
    if not isinstance(content, (Mapping, list, tuple)):
        return 0
    if id(content) not in counts:
        counts[id(content)] = float("inf")
        parts = content.values() if isinstance(content, Mapping) else content
        counts[id(content)] = 1 + sum(_count(part, counts, tensors) for part in parts)
    return counts[id(content)]


def _is_repeated(tensor: Tensor) -> bool:
    is_stored = tensor.layout == torch.strided and not tensor.is_quantized
    return is_stored and tensor.nbytes > tensor.untyped_storage().nbytes()
