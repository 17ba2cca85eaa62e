"""The weights in TorchScript archives, without the code in them: loading such an archive with torch may run it."""

import ast
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pair_detr.tensor_files.pickles import ForbiddenClassError

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
# These functions tell TorchScript the types of elements.
_LISTS = {
    ("torch.jit._pickle", name)
    for name in ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag")
}
# What the source of a class says about its attributes.
_CLASS = re.compile(
    r"^class (?P<name>\w+)\(Module\):\n"
    r"  __parameters__ = (?P<parameters>\[[^\]\n]*\])\n"
    r"  __buffers__ = (?P<buffers>\[[^\]\n]*\])\n",
    re.MULTILINE,
)


class _Module:
    """Stands for a module of any class: its attributes by their names."""

    qualified_name = ""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Reads tensors, plain values and modules, which become :class:`_Module`; nothing else."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type(name, (_Module,), {"qualified_name": f"{module}.{name}"})
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in _LISTS:
            return _as_list
        raise ForbiddenClassError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Of a storage, the elements as a vector."""
        kind, dtype, key, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"there is a reference to a {kind}")
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive that ``torch.jit.save`` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The state dict of a TorchScript archive, on the CPU.

    Raises:
        ForbiddenClassError: it holds other objects than modules and tensors.
        zipfile.BadZipFile, KeyError, pickle.UnpicklingError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
        module = _Unpickler(archive, root).load()
        if not isinstance(module, _Module):
            raise pickle.UnpicklingError(f"it holds a {type(module).__name__}, not a module")
        return dict(_tensors(module, "", _names_of_tensors(archive, f"{root}/code/")))


def _names_of_tensors(archive: zipfile.ZipFile, folder: str) -> dict[str, set[str]]:
    """Names of the parameters and buffers of each class; other attributes may also be tensors."""
    names = {}
    for file in archive.namelist():
        if file.startswith(folder) and file.endswith(".py"):
            module = file.removeprefix(folder).removesuffix(".py").replace("/", ".")
            for match in _CLASS.finditer(archive.read(file).decode()):
                lists = (ast.literal_eval(match[kind]) for kind in ("parameters", "buffers"))
                names[f"{module}.{match['name']}"] = {name for names in lists for name in names}
    return names


def _tensors(module: _Module, prefix: str, names: dict[str, set[str]]) -> Iterator[tuple[str, Tensor]]:
    own = names.get(module.qualified_name, set())
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.", names)
        elif isinstance(value, Tensor) and name in own:
            yield f"{prefix}{name}", value


def _rebuild_tensor(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _as_list(values: Any, *_: Any) -> Any:
    return values
