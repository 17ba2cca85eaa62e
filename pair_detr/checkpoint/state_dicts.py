"""Finds the weights among all that a file holds."""

import argparse
import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pair_detr.checkpoint.errors import ConversionError
from pair_detr.checkpoint.wrappers import COUNTERS, unwrap
from pair_detr.tensor_files import METADATA
from pair_detr.utils.messages import counted, join_some

logger = logging.getLogger(__name__)

# Where a checkpoint keeps its weights, in the order of preference.
_ENTRIES = ("model", "state_dict", "model_state", "model_state_dict", "module", "blobs")
# Words in the keys of averages of them, which callbacks of Lightning keep further down.
_AVERAGES = re.compile(r"(?:^|_)(?:ema|swa|averaged?|teacher)(?:_|$)", re.IGNORECASE)
_LEVELS = 3
# Where the weights may be one level further down.
_NESTED = ("module", "model", "state_dict", "params")
_ARRAYS = (Tensor, np.ndarray)


@dataclass(frozen=True)
class Checkpoint:
    """Weights from a file.

    Attributes:
        state: the state dict as it is in the file, less what wrappers add to its keys (see
            :func:`pair_detr.checkpoint.wrappers.unwrap`).
        entry: the key of the file that it was under, with dots between keys of several levels; "" if the file is the
            state dict.
        removed: what was removed from its keys, such as "module.".
        hints: what else the file says: "num_heads", "dilation" (DC5), "class_names", "author", "pixels" and
            "input_config", config entries of the images, and "metadata", what :func:`pair_detr.checkpoint.convert`
            wrote. Each may be absent.
    """

    state: dict[str, Tensor]
    entry: str = ""
    removed: tuple[str, ...] = ()
    hints: dict[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it is what Detectron2's checkpointers load: under the usual key, without wrappers."""
        return self.entry == "model" and not self.removed

    def describe(self) -> str:
        """Which part of the file it is, for messages."""
        where = counted(len(self.state), "tensor")
        where = f"the {where} of entry {self.entry!r}" if self.entry else where
        return f"{where}, without {', '.join(self.removed)} in their names" if self.removed else where


def checkpoint_of(content: Any, path: str, entry: str = "") -> Checkpoint:
    """Finds the weights in what a file holds.

    Args:
        content: the file's.
        path: of the file, for messages.
        entry: see :func:`pair_detr.checkpoint.reading.read_checkpoint`.

    Raises:
        ConversionError: there are none.
    """
    if not isinstance(content, Mapping):
        raise ConversionError(f"{path} holds a {type(content).__name__}, not a state dict.")
    averages = list(_averages_in(content))
    if entry:
        found, averages = _select(content, entry, path), []
    else:
        entry = next((key for key in _ENTRIES if isinstance(content.get(key), Mapping)), "")
        if not entry and averages:
            entry = averages.pop(0)
            logger.warning("%s: took the averaged weights under %r; there are no others.", path, entry)
        found = _select(content, entry, path) if entry else content
    # mmengine exchanges the two when it saves them.
    if averages and not (averages[0] == "ema_state_dict" and "steps" in content["ema_state_dict"]):
        _warn_of_averages(path, averages[0], entry)
    found, entry = _descend(found, entry)
    return unwrapped_checkpoint(found, path, entry, _hints(content))


def unwrapped_checkpoint(
    state: Mapping[str, Any], path: str, entry: str = "", hints: dict[str, Any] | None = None
) -> Checkpoint:
    """The weights in a state dict (tensors or arrays by their names) without the traces of wrappers, which are logged.

    Raises:
        ConversionError: the state dict holds anything else, or nothing.
    """
    unwrapped = unwrap(_tensors(state, f"{path}, entry {entry!r}" if entry else path))
    if unwrapped.removed:
        logger.info("%s: removed %s from the names of the weights.", path, ", ".join(unwrapped.removed))
    if left_out := unwrapped.left_out:
        logger.info("%s: left out %s beside the model's: %s.", path, counted(len(left_out), "tensor"), _list(left_out))
    if unwrapped.averages:
        _warn_of_averages(path, f"{entry}.{unwrapped.averages}".lstrip("."), entry)
    return Checkpoint(unwrapped.state, entry, unwrapped.removed, hints or {})


def _select(content: Mapping[str, Any], entry: str, path: str) -> Any:
    """What lies under a key, or under keys of several levels with dots between them."""
    if entry in content:
        return content[entry]
    for key, value in content.items():
        if isinstance(key, str) and entry.startswith(f"{key}.") and isinstance(value, Mapping):
            return _select(value, entry.removeprefix(f"{key}."), path)
    start = f"{entry}."
    if found := {key: value for key, value in content.items() if isinstance(key, str) and key.startswith(start)}:
        return {key.removeprefix(start): value for key, value in found.items()}
    raise ConversionError(f"{path} has no entry {entry!r}; it has {_list(content)}.")


def _descend(found: Any, entry: str) -> tuple[Any, str]:
    """From a dict of dicts, as {"module": {...}, "updates": 100}, to the weights."""
    while isinstance(found, Mapping) and not any(isinstance(value, _ARRAYS) and value.ndim for value in found.values()):
        key = next((key for key in _NESTED if isinstance(found.get(key), Mapping)), None)
        if key is None or not entry:
            break
        found, entry = found[key], f"{entry}.{key}"
    return found, entry


def _averages_in(content: Mapping[str, Any], levels: int = _LEVELS) -> Iterator[str]:
    """Keys under which averaged weights lie, with dots between those of several levels."""
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping):
            continue
        if _AVERAGES.search(key) and _holds_tensors(value):
            yield key
        elif levels > 1:
            yield from (f"{key}.{inner}" for inner in _averages_in(value, levels - 1))


def _holds_tensors(value: Any) -> bool:
    found, _ = _descend(value, "entry")
    return isinstance(found, Mapping) and any(isinstance(x, _ARRAYS) for x in found.values())


def _warn_of_averages(path: str, average: str, entry: str) -> None:
    output = Path(path).with_name(f"{Path(path).stem}_ema.pth")
    command = ["python", "-m", "pair_detr.tools.convert_weights", "--entry", average, path, str(output)]
    logger.warning(
        "%s also holds averaged weights under %r; took those under %r. To take the averages: %s, and set MODEL.WEIGHTS "
        "to the new file.",
        path,
        average,
        entry or "its top level",
        shlex.join(command),
    )


def _hints(content: Mapping[str, Any]) -> dict[str, Any]:
    hints = {"author": content.get("__author__")}
    if isinstance(metadata := content.get(METADATA), Mapping):
        hints["metadata"] = metadata
    if isinstance(args := content.get("args"), argparse.Namespace):
        hints |= {"num_heads": getattr(args, "nheads", None), "dilation": getattr(args, "dilation", None)}
    return {key: value for key, value in hints.items() if value is not None}


def _tensors(state: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    tensors = {
        key: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        for key, value in state.items()
        if not (key in COUNTERS and isinstance(value, (int, float)))
    }
    if others := [key for key, value in tensors.items() if not isinstance(value, Tensor)]:
        raise ConversionError(
            f"{where} is no state dict: {_list(others)} are no tensors. Its keys are {_list(state)}; name the one with "
            "the weights by --entry."
        )
    if others := [key for key in tensors if not isinstance(key, str)]:
        raise ConversionError(f"{where} is no state dict: {_list(others)} are no names.")
    if not tensors:
        raise ConversionError(f"{where} holds no tensors.")
    return tensors


def _list(keys: Any, limit: int = 6) -> str:
    return join_some(list(map(str, keys)), limit)
