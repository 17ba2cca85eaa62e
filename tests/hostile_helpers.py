"""Files that run code when a careless reader loads them: each payload makes a file, the marker."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn


class Opens:
    """Opens a file for writing, and so makes it, when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


class OpensInTorchScript(nn.Module):
    """The same, by an operator of torch in what TorchScript runs on loading."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = str(marker)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.marker, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.marker, self.weight, self.training = state
        # What is not used is not run.
        self.weight = self.weight + torch.from_file(self.marker, True, 1)


def _torchscript(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(OpensInTorchScript(marker)), buffer)
    return buffer.getvalue()


def _torch(marker: Path, new_format: bool) -> bytes:
    buffer = io.BytesIO()
    content = {"model": {"weight": torch.zeros(2)}, "extra": Opens(marker)}
    torch.save(content, buffer, _use_new_zipfile_serialization=new_format)
    return buffer.getvalue()


def _tar(marker: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            data = pickle.dumps(Opens(marker))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _numpy(marker: Path, save: Callable) -> bytes:
    buffer = io.BytesIO()
    save(buffer, np.array([Opens(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _yaml(marker: Path) -> bytes:
    return f"SEED: 1\nOUTPUT_DIR: !!python/object/apply:builtins.open [{marker}, w]\n".encode()


# The content of a file for a marker, and a reader that runs it.
PAYLOADS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path], object]]] = {
    "pickle": (lambda m: pickle.dumps({"model": Opens(m)}), lambda f: pickle.loads(f.read_bytes())),
    "pickle in text": (lambda m: pickle.dumps([Opens(m)], protocol=0), lambda f: pickle.loads(f.read_bytes())),
    "torch": (lambda m: _torch(m, new_format=True), lambda f: torch.load(f, weights_only=False)),
    "torch before 1.6": (lambda m: _torch(m, new_format=False), lambda f: torch.load(f, weights_only=False)),
    "torch 0.1": (_tar, lambda f: torch.load(f, weights_only=False)),
    "TorchScript": (_torchscript, torch.jit.load),
    "NumPy": (lambda m: _numpy(m, np.save), lambda f: np.load(f, allow_pickle=True)),
    "NumPy archive": (
        lambda m: _numpy(m, lambda *args, allow_pickle: np.savez(*args)),
        lambda f: np.load(f, allow_pickle=True)["arr_0"],
    ),
    "YAML": (_yaml, lambda f: yaml.unsafe_load(f.read_text())),
}
