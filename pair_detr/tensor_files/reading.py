"""Reads files of tensors, whatever wrote them, without running code that they may hold."""

import argparse
import codecs
import pathlib
import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray

from pair_detr.tensor_files.limits import find_excess, find_excess_in_archive
from pair_detr.tensor_files.pickles import ForbiddenClassError, load_arrays
from pair_detr.tensor_files.torchscript import is_torchscript, read_torchscript
from pair_detr.utils.file_stamps import Stamp, are_unchanged, record_read, recorded_reads

# What files hold besides tensors: the arguments of a training, paths, and NumPy's numbers and arrays.
_HARMLESS = [
    argparse.Namespace,
    *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    *(np.ndarray, np.dtype, type(np.dtype(np.float32)), type(np.dtype(np.float64)), type(np.dtype(np.int64))),
    *(multiarray._reconstruct, multiarray.scalar),
]
_ALLOW = "If you trust where it comes from, convert it with python -m pair_detr.tools.convert_weights --allow-pickle."
# Archives that agree with their checksums.
_intact: dict[str, Stamp] = {}
_ZIP = b"PK\x03\x04"
_AGAIN = "Download it again, or take another copy of it."


class TensorFileError(ValueError):
    """A file of tensors cannot be read, is damaged, or could run code; the message says what to do."""


def read_tensor_file(path: Path, allow_pickle: bool = False, *, mmap: bool = False, remedy: str = _ALLOW) -> Any:
    """What a file holds. All files of tensors are read here, so that none of them runs code.

    A file of torch has a checksum of each tensor, which torch itself does not compare.

    Args:
        path: a file of torch (.pth, .pt, .bin), of Detectron2 (.pkl) or of safetensors, or a TorchScript archive, of
            which it takes the state dict.
        allow_pickle: also read files that hold more than tensors. Such a file can run any code.
        mmap: leave tensors on the disk until they are used, where the format allows it.
        remedy: for a file that holds more than tensors.

    Raises:
        FileNotFoundError: there is no such file.
        TensorFileError: it cannot be read, is damaged, or holds what could run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give the path of a file of weights on this machine.")
    record_read(path)
    with path.open("rb") as file:
        head = file.read(512)
    _require_weights(path, head)
    try:
        content = _read(path, head.startswith(_ZIP), allow_pickle, mmap)
        if excess := find_excess(content):
            raise TensorFileError(f"{path} is no file of weights, but one that takes all memory: {excess}. {_AGAIN}")
        return content
    except TensorFileError:
        raise
    except ForbiddenClassError as error:
        raise TensorFileError(f"{path} holds more than arrays ({error}), which could run code. {remedy}") from error
    except ModuleNotFoundError as error:
        raise TensorFileError(
            f"{path} holds objects of {error.name}. Install it, or give the weights alone."
        ) from error
    except Exception as error:  # torch, pickle and safetensors raise whatever a damaged file makes them raise
        forbidden = re.search(r"GLOBAL \S+|Unsupported class \S+", str(error))
        if forbidden and isinstance(error, pickle.UnpicklingError):
            what = f"{path} holds more than tensors ({forbidden[0]}), which could run code"
            raise TensorFileError(f"{what}. {remedy}") from error
        if text := _first_line(head):
            raise TensorFileError(f'{path} is text, not weights: "{text}". {_AGAIN}') from error
        # torch goes on with advice to turn its protection off.
        reason = (str(error).partition("In PyTorch 2.6")[0].splitlines() or [type(error).__name__])[0][:200]
        raise TensorFileError(f"{path} cannot be read; it is incomplete or no weights ({reason}). {_AGAIN}") from error


def _read(path: Path, is_zip: bool, allow_pickle: bool, mmap: bool) -> Any:
    if is_zip:
        _require_intact(path)
        if is_torchscript(path):
            return read_torchscript(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pkl" and not is_zip:
        data = path.read_bytes()
        return pickle.loads(data, encoding="latin1") if allow_pickle else load_arrays(data)
    if not (is_zip or allow_pickle) and tarfile.is_tarfile(path):
        # torch refuses these as well, but does not say what to do.
        raise ForbiddenClassError("it is a .tar file, of torch 0.1")
    with torch.serialization.safe_globals(_HARMLESS):
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle, mmap=mmap and is_zip)


def _require_weights(path: Path, head: bytes) -> None:
    """Recognizes what people download in place of weights, and says so."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not head:
        raise TensorFileError(f"{path} is empty. {_AGAIN}")
    if not head.strip(b"\0"):
        raise TensorFileError(f"{path} begins with zeros alone: it was not written to its end. {_AGAIN}")
    if text.startswith(b"version https://git-lfs"):
        raise TensorFileError(
            f"{path} is a Git LFS pointer, not the file it points to. Run git lfs pull where it is from."
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise TensorFileError(
            f"{path} is an HTML page, not weights: the server answered with a page. Open the address in a browser and "
            "save the file itself."
        )


def _require_intact(path: Path) -> None:
    """Compares the parts of a ZIP archive with their checksums, unless this process has done so."""
    if str(path) in _intact and are_unchanged({str(path): _intact[str(path)]}):
        return
    with recorded_reads() as stamps:
        record_read(path)
        _compare_checksums(path)
    _intact.update(stamps)


def _compare_checksums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if not any(part.filename.endswith("/data.pkl") for part in parts):
            raise TensorFileError(
                f"{path} is a ZIP archive, but torch did not write it: it holds {parts[0].filename}. Unpack it, and "
                "give the file of weights in it."
            )
        if excess := find_excess_in_archive(parts, path.stat().st_size):
            raise TensorFileError(f"{path} is no file of weights, but one that takes all memory: {excess}. {_AGAIN}")
        # torch can be told to save no checksums, which then are 0.
        if any(part.CRC for part in parts) and (damaged := archive.testzip()):
            raise TensorFileError(f"{path} is damaged: {damaged} in it does not agree with its checksum. {_AGAIN}")


def _first_line(head: bytes) -> str:
    """Of a text; "" of anything else."""
    try:
        # Its last character may be cut.
        lines = codecs.getincrementaldecoder("utf-8")().decode(head).strip().splitlines()
    except UnicodeDecodeError:
        return ""
    return lines[0][:80] if lines and all(line.isprintable() for line in lines) else ""


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise TensorFileError(f"{path} needs the package safetensors: pip install safetensors.") from error
    return load_file(path)
