"""Notices on the CPU where the host would wait for a GPU: reads of its results, and copies to it that are not queued.

Tensors count as the device's if they are made from its other tensors, or on it by name.
"""

import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__")
}
_FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray}
# Their results have sizes, or are numbers, that depend on values. Indices do if they are masks.
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index_put")
_DEPENDENT = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
# It looks at its values on CPUs alone.
_CHECKED_ON_CPUS = torch.nn.functional.one_hot


class DeviceWatch:
    """While it is entered, ``waits`` collects what the host would wait for, with the line of the project that asks."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        """
        Args:
            tensors: that are on the device, such as parameters and buffers.
        """
        self.waits: list[str] = []
        self._is_silent = False
        # Kept, so that no other storage takes the identity of one.
        self._storages: dict[int, Any] = {}
        self._add(list(tensors))
        self._stack = ExitStack()

    def __enter__(self) -> "DeviceWatch":
        self._stack.enter_context(_Functions(self))
        self._stack.enter_context(_Operators(self))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _add(self, values: Any) -> None:
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = storage

    def has(self, values: Any) -> bool:
        """Whether any tensor among nested values is on the device."""
        return any(x.untyped_storage()._cdata in self._storages for x in _tensors(values))

    def note(self, what: str) -> None:
        """A wait."""
        if not self._is_silent:
            frames = [frame for frame in traceback.extract_stack() if "pair_detr/" in frame.filename]
            where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "backward"
            self.waits.append(f"{what} at {where}")

    def function(self, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Calls a function of torch's Python interface."""
        if function in _READS and self.has(args):
            self.note(function.__name__)
            # What it does on the way is the same wait; and the result is the host's, not another view of the device's.
            result = self._silently(function, args, kwargs)
            return self._on_host(result)
        if function is _CHECKED_ON_CPUS:
            return self._silently(function, args, kwargs)
        if function is Tensor.to and _has_target(args, kwargs) and not self.has(args[0]):
            result = self._silently(function, args, kwargs).clone()
            if not kwargs.get("non_blocking", False):
                self.note("copy to the device")
            self._add(result)
            return result
        on_device = function is Tensor.new_tensor and self.has(args[0])
        if on_device or (function in _FROM_HOST and kwargs.get("device") is not None and not self.has(args)):
            self.note(function.__name__)
        if function in (torch.prod, Tensor.prod) and args[0].requires_grad and torch.is_grad_enabled():
            # It counts zeros, but not under a mode.
            self.note("the gradient of a product")
        if function is Tensor.__setitem__ and self.has(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(x, (Tensor, list)) for x in index) and not isinstance(args[2], Tensor):
                self.note("a number that is assigned by index")
        result = function(*args, **kwargs)
        if on_device or kwargs.get("device") is not None:
            self._add(result)
        return result

    def operator(self, operator: torch._ops.OpOverload, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Calls an operator, of the forward or of the backward pass."""
        result = operator(*args, **kwargs)
        if not self.has((args, kwargs)):
            return result
        name = operator.name().split(".")[0]
        if name in _INDEXING:
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                self.note("indexing by a mask")
            if not all(map(self.has, indices)):
                self.note("indexing from the host")
        elif any(tag in operator.tags for tag in _DEPENDENT):
            self.note(name)
        self._add(result)
        return result

    def _on_host(self, result: Any) -> Any:
        if not isinstance(result, Tensor):
            return result
        copy = result.clone()
        del self._storages[copy.untyped_storage()._cdata]
        return copy

    def _silently(self, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        was_silent, self._is_silent = self._is_silent, True
        try:
            return function(*args, **kwargs)
        finally:
            self._is_silent = was_silent


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.layout == torch.strided]


def _has_target(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether Tensor.to is given a device, or a tensor whose device it takes, rather than a type alone."""
    values = (*args[1:], kwargs.get("device"), kwargs.get("other"))
    return any(isinstance(x, (torch.device, str, Tensor)) for x in values)


class _Functions(TorchFunctionMode):
    def __init__(self, watch: DeviceWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return self._watch.function(function, args, kwargs or {})


class _Operators(TorchDispatchMode):
    def __init__(self, watch: DeviceWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return self._watch.operator(operator, args, kwargs or {})
