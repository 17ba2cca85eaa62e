"""Reads files of weights, whatever wrote them, without running code that they may hold."""

import argparse
import codecs
import pathlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray

from pair_detr.conversion.checkpoint import Checkpoint, checkpoint_of, unwrapped_checkpoint
from pair_detr.conversion.errors import ConversionError
from pair_detr.conversion.pickles import ForbiddenClassError, load_arrays
from pair_detr.data.json_files import read_json

_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What files hold beside tensors: the arguments of a training, paths, and NumPy's numbers and arrays.
_HARMLESS = [
    argparse.Namespace,
    *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    *(np.ndarray, np.dtype, type(np.dtype(np.float32)), type(np.dtype(np.float64)), type(np.dtype(np.int64))),
    *(multiarray._reconstruct, multiarray.scalar),
]
_ALLOW = "If you trust where it comes from, convert it with python -m pair_detr.tools.convert_weights --allow-pickle."
_AGAIN = "Download it again."


def read_state_dict(path: str | Path, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The weights in a file; arguments and errors as of :func:`read_checkpoint`."""
    return read_checkpoint(path, allow_pickle).state


def read_checkpoint(path: str | Path, allow_pickle: bool = False, entry: str = "") -> Checkpoint:
    """Reads the weights in a file, and what it says about them.

    Args:
        path: a file of torch (.pth, .pt, .bin), of Detectron2 (.pkl) or of safetensors, or a folder of transformers.
        allow_pickle: also read files that hold more than tensors. Such a file can run any code.
        entry: key of the weights in the file, for one with several; "" takes the usual one. It may go on, after a dot,
            with a key below, or with what the names of the tensors begin with.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ConversionError: it cannot be read, or holds no weights.
    """
    path = Path(path)
    if not path.is_dir():
        return checkpoint_of(read_file(path, allow_pickle), str(path), entry)
    config_path = path / "config.json"
    if not config_path.is_file():
        raise ConversionError(
            f"{path} is a folder without a config.json. Give a file of weights, or a folder that "
            "transformers' save_pretrained wrote."
        )
    config = _read_json(config_path)
    found = next((path / name for name in _FOLDER_FILES if (path / name).is_file()), None)
    if found is None:
        raise ConversionError(f"{path} has a config.json but no weights: one of {', '.join(_FOLDER_FILES)} is needed.")
    state: dict[str, Tensor] = {}
    shards = sorted(set(_read_json(found).get("weight_map", {}).values())) if found.suffix == ".json" else [found.name]
    for shard in shards:
        state |= read_file(path / shard, allow_pickle)
    hints = {"num_heads": config.get("decoder_attention_heads"), "dilation": config.get("dilation")}
    if labels := config.get("id2label"):
        hints["class_names"] = [labels[key] for key in sorted(labels, key=int)]
    return unwrapped_checkpoint(state, str(found), hints={k: v for k, v in hints.items() if v is not None})


def read_file(path: Path, allow_pickle: bool = False) -> Any:
    """What a file holds; arguments and errors as of :func:`read_checkpoint`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give the path of a file of weights on this machine.")
    with path.open("rb") as file:
        head = file.read(512)
    _require_weights(path, head)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix == ".pkl" and not head.startswith(b"PK"):
            return (
                pickle.loads(path.read_bytes(), encoding="latin1") if allow_pickle else load_arrays(path.read_bytes())
            )
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except ForbiddenClassError as error:
        raise ConversionError(f"{path} holds more than arrays ({error}), which could run code. {_ALLOW}") from error
    except ModuleNotFoundError as error:
        raise ConversionError(
            f"{path} holds objects of {error.name}. Install it, or give the weights alone."
        ) from error
    except Exception as error:  # torch, pickle and safetensors raise whatever a damaged file makes them raise
        forbidden = re.search(r"GLOBAL \S+|Unsupported class \S+", str(error))
        if forbidden and isinstance(error, pickle.UnpicklingError):
            what = f"{path} holds more than tensors ({forbidden[0]}), which could run code"
            raise ConversionError(f"{what}. {_ALLOW}") from error
        # torch goes on with advice to turn its protection off.
        reason = (str(error).partition("In PyTorch 2.6")[0].splitlines() or [type(error).__name__])[0][:200]
        raise ConversionError(f"{path} cannot be read; it is incomplete or no weights ({reason}). {_AGAIN}") from error


def _require_weights(path: Path, head: bytes) -> None:
    """Recognises what people download in place of weights, and says so."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not head:
        raise ConversionError(f"{path} is empty. {_AGAIN}")
    if text.startswith(b"version https://git-lfs"):
        raise ConversionError(
            f"{path} is a Git LFS pointer, not the file it points to. Run git lfs pull where it is from."
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ConversionError(
            f"{path} is an HTML page, not weights: the server answered with a page. Open the address in a browser and "
            "save the file itself."
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConversionError(f"{path} needs the package safetensors: pip install safetensors.") from error
    return load_file(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise ConversionError(f"{error} {_AGAIN}") from error
