"""What wrappers of a model put before, and into, the names of its weights."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from pair_detr.checkpoint.errors import ConversionError
from pair_detr.checkpoint.formats.native import PREFIX, is_inner, is_native
from pair_detr.checkpoint.formats.registry import LAYOUTS, recognized_name

# Of torch.compile, FSDP, activation checkpointing and Lightning's strategies, which may wrap any part of a model.
_INSERTED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Of DataParallel, and of averages of models, which have counters next to it.
_PARALLEL = "module"
COUNTERS = {"n_averaged", "steps", "num_updates", "updates", "decay"}
# Attributes of a Lightning module other than the model.
_BESIDE = re.compile(r"criterion|loss|matcher|metric|(^|_)m?ap(_|$)|^(train|val|valid|test)_")
_AVERAGE = re.compile(r"(^|_)ema(_|$)|averag|teacher")
_MAX_DEPTH = 4


@dataclass(frozen=True)
class Unwrapped:
    """A state dict without the traces of wrappers.

    Attributes:
        state: the weights of the model.
        removed: what was taken out of the names, such as "module.".
        left_out: names of what is not the model's, the criterion's buffers for instance.
        averages: prefix of a second model, an average of the first, which is also left out; "" for none.
    """

    state: dict[str, Tensor]
    removed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    averages: str = ""


def unwrap(state: Mapping[str, Tensor]) -> Unwrapped:
    """Takes the names of wrappers out of the keys, so that they are those of a known code base, if they can be.

    torch.compile's, FSDP's and DataParallel's are told by their names. Others, such as the attribute under which a
    Lightning module keeps its model, are any that all keys begin with: they are removed if the keys are better known
    without. What no code base has stays as it is.

    Raises:
        ConversionError: two keys are the same without them, or there are several models of which none is an average.
    """
    result = _without_parallel(_without_inserted(Unwrapped(dict(state))))
    candidates = [_completed(result)]
    while not is_native(candidates[-1].state) and len(candidates) <= _MAX_DEPTH:
        result = _without_component(result)
        if result is None:
            break
        result = _without_parallel(result)
        candidates.append(_completed(result))
    if is_native(candidates[-1].state):
        return candidates[-1]
    _require_one_model(candidates[-1])
    if len(candidates) == 1:
        return candidates[0]
    known = next((found for found in candidates if recognized_name(found.state)), None)
    # What is nearly known is better compared without what is around it.
    return known or min(candidates, key=lambda found: min(layout.count_unknown(found.state) for layout in LAYOUTS))


def _require_one_model(found: Unwrapped) -> None:
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in found.state.items():
        name, _, rest = key.partition(".")
        groups[name][rest] = tensor
    models = [
        "".join((*found.removed, name))
        for name, state in groups.items()
        if is_native(state) or is_inner(state) or recognized_name(state)
    ]
    if len(models) > 1:
        raise ConversionError(
            f"There are several models, under {', '.join(models)}, and nothing tells which is meant. Take one: python "
            f"-m pair_detr.tools.convert_weights --entry {models[0]} FILE NEW_FILE, and set MODEL.WEIGHTS to the new "
            "file."
        )


def _completed(found: Unwrapped) -> Unwrapped:
    """Names of this package's detector alone become those in a whole model."""
    if not is_inner(found.state):
        return found
    return replace(found, state={PREFIX + key: tensor for key, tensor in found.state.items()})


def _without_inserted(found: Unwrapped) -> Unwrapped:
    renamed: dict[str, Tensor] = {}
    removed: dict[str, None] = {}
    for key, tensor in found.state.items():
        parts = key.split(".")
        removed |= {f"{part}.": None for part in parts if part in _INSERTED}
        name = ".".join(part for part in parts if part not in _INSERTED)
        if name in renamed:
            raise ConversionError(
                f"There are two tensors {name}, one of them under {', '.join(removed)}: of which is the model?"
            )
        renamed[name] = tensor
    return replace(found, state=renamed, removed=(*found.removed, *removed))


def _without_parallel(found: Unwrapped) -> Unwrapped:
    others = tuple(key for key in found.state if not key.startswith(f"{_PARALLEL}."))
    if len(others) == len(found.state) or not COUNTERS.issuperset(others):
        return found
    return _without_parallel(_without_prefix(found, f"{_PARALLEL}.", others))


def _without_prefix(found: Unwrapped, prefix: str, left_out: Iterable[str]) -> Unwrapped:
    state = {key.removeprefix(prefix): tensor for key, tensor in found.state.items() if key.startswith(prefix)}
    return replace(found, state=state, removed=(*found.removed, prefix), left_out=(*found.left_out, *left_out))


def _without_component(found: Unwrapped) -> Unwrapped | None:
    """Removes the first component of the keys, if it is the same for all of the model."""
    groups: dict[str, set[str]] = defaultdict(set)
    for key in found.state:
        name, _, rest = key.partition(".")
        groups[name].add(rest)
    models = [name for name in groups if not _BESIDE.search(name) and groups[name] != {""}]
    models.sort(key=lambda name: (bool(_AVERAGE.search(name)), -len(groups[name])))
    if not models or any(not _AVERAGE.search(name) for name in models[1:]):
        return None
    if any(groups[name] == {""} and not (_BESIDE.search(name) or name in COUNTERS) for name in groups):
        return None
    model, averages = f"{models[0]}.", models[1] if len(models) > 1 else ""
    left_out = [key for key in found.state if not key.startswith(model)]
    result = _without_prefix(found, model, left_out)
    return replace(result, averages="".join((*found.removed, averages)) if averages else found.averages)
