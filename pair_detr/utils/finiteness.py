"""NaN and infinity in what is saved, loaded and evaluated."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pair_detr.utils.messages import join_some

# Of all tensors, masks of attention and limits of activations may be infinite on purpose: gemma4_vit of timm has some.
_MAY_BE_INFINITE = re.compile(r"(mask|min|max)$")


def describe_non_finite(state: Any) -> str:
    """A clause, such as "detector.query_embed.weight holds NaN or infinity"; "" if no tensor of a state does.

    Args:
        state: nested dicts and sequences, such as a checkpoint. What is no tensor in it is skipped.
    """
    names = find_non_finite(state)
    if not names:
        return ""
    if len(names) == 1:
        return f"{names[0]} holds NaN or infinity"
    return f"{len(names)} tensors hold NaN or infinity: {join_some(names, limit=3)}"


@torch.no_grad()
def find_non_finite(state: Any) -> list[str]:
    """Names, with dots between the levels, of the tensors that hold NaN or infinity; argument as above.

    The host waits once for each device that the tensors are on.
    """
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in _tensors(state, ""):
        by_device[tensor.device].append((name, _is_at_fault(name, tensor)))
    found = []
    for of_device in by_device.values():
        names, flags = zip(*of_device, strict=True)
        found += [name for name, flag in zip(names, torch.stack(flags).tolist(), strict=True) if flag]
    return found


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        # Tensors of the meta device have no values.
        may_be = state.is_floating_point() or state.is_complex()
        if may_be and state.numel() and not state.is_meta and state.layout == torch.strided:
            yield name, state
        return
    if isinstance(state, Mapping):
        items = state.items()
    elif isinstance(state, (list, tuple)):
        items = enumerate(state)
    else:
        return
    for key, value in items:
        yield from _tensors(value, f"{name}.{key}" if name else str(key))


def _is_at_fault(name: str, tensor: Tensor) -> Tensor:
    """A single bool on the tensor's device."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.dtype.itemsize == 1:
        # torch computes little with types of 8 bits.
        tensor = tensor.float()
    # Faster than isfinite, which makes a tensor of the same size. If one value is NaN, both of these are.
    extremes = torch.stack(tensor.aminmax())
    return extremes.isnan().any() if _MAY_BE_INFINITE.search(name) else ~extremes.isfinite().all()
