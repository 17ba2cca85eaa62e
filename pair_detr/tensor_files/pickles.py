"""Unpickling of arrays and plain containers, and of nothing else: any other class could run code."""

import io
import pickle
from typing import Any

_ALLOWED = {
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    # numpy 2 moved its private modules.
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    ),
}


class ForbiddenClassError(pickle.UnpicklingError):
    """A pickle asks for a class that is not known to be harmless."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ForbiddenClassError(f"{module}.{name}")
        return super().find_class(module, name)


def load_arrays(data: bytes) -> Any:
    """Unpickles numpy arrays in dicts, lists and the like, also of Python 2.

    Raises:
        ForbiddenClassError: there is anything else; the message names its class.
    """
    return _RestrictedUnpickler(io.BytesIO(data), encoding="latin1").load()
