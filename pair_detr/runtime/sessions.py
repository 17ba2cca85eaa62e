"""What computes a graph: ONNX Runtime, OpenVINO, or torch for graphs of torch.export."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from pair_detr.runtime.description import GRAPH_FILES, ModelDescription


class Session(ABC):
    """A loaded graph.

    Attributes:
        package: that computes it.
        formats: of graphs that it reads.
        runs_code: whether a graph can hide code that loading it runs.
    """

    package: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    runs_code: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, file: Path, description: ModelDescription, threads: int) -> None:
        """
        Args:
            file: of the graph.
            description: of the graph.
            threads: of the computation; 0 leaves it to the package.
        """

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of the graph, in their order."""


class OnnxRuntimeSession(Session):
    """ONNX Runtime, on a GPU where onnxruntime-gpu is installed.

    Other providers, such as TensorRT's, compile anew for each size, or change the precision.
    """

    package = "onnxruntime"
    formats = ("onnx",)

    def __init__(self, file: Path, description: ModelDescription, threads: int) -> None:
        onnxruntime = require(self.package)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Errors arrive as exceptions; its warnings are about its own optimizations.
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See :class:`Session`."""
        return self._session.run(None, dict(inputs))


class OpenVinoSession(Session):
    """OpenVINO on the CPU, in the precision of the description; it reads ONNX as well."""

    package = "openvino"
    formats = ("openvino", "onnx")

    def __init__(self, file: Path, description: ModelDescription, threads: int) -> None:
        openvino = require(self.package)
        hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[description.precision]}
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        self._model = core.compile_model(core.read_model(str(file)), "CPU", hints)
        # Of several streams each would have a part of the cores; a caller asks for one result at a time.
        self._request = self._model.create_infer_request()

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See :class:`Session`."""
        results = self._request.infer(dict(inputs))
        return [np.array(results[output]) for output in self._model.outputs]


class TorchSession(Session):
    """torch, which graphs of torch.export need."""

    package = "torch"
    formats = ("torch_export",)
    # Its reader unpickles constants, and evaluates expressions.
    runs_code = True

    def __init__(self, file: Path, description: ModelDescription, threads: int) -> None:
        self._torch = require(self.package)
        if threads:
            self._torch.set_num_threads(threads)
        self._module = self._torch.export.load(str(file)).module()

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See :class:`Session`."""
        with self._torch.no_grad():
            outputs = self._module(**{name: self._torch.from_numpy(x) for name, x in inputs.items()})
        return [output.numpy() for output in outputs]


# bf16 and fp16 where the CPU has them; OpenVINO computes in fp32 otherwise.
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
SESSIONS: dict[str, type[Session]] = {x.package: x for x in (OnnxRuntimeSession, OpenVinoSession, TorchSession)}


def open_session(folder: Path, description: ModelDescription, backend: str | None, threads: int) -> Session:
    """Loads the graph of a folder.

    Args:
        backend: one of :data:`SESSIONS`; None takes the first that reads the format, unless the graph may run code.

    Raises:
        ValueError: there is no such backend, or it does not read graphs of this format; or the graph is damaged.
        FileNotFoundError: the graph is missing.
        ImportError: the package is not installed; the message says what to install.
    """
    able = [name for name, session in SESSIONS.items() if description.format in session.formats]
    if backend is not None and backend not in able:
        raise ValueError(
            f"backend is {backend!r}, but {folder} holds a graph of the format {description.format}, which "
            f"{' and '.join(able)} can run."
        )
    if backend is None and SESSIONS[able[0]].runs_code:
        raise ValueError(
            f"{folder} holds a graph of the format {description.format}, which can hide code that is run when it is "
            f'loaded: say backend="{able[0]}" (--backend {able[0]}) if you trust who made it, or export to onnx or '
            "openvino."
        )
    file = folder / GRAPH_FILES[description.format]
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: copy the whole folder, or export the model again.")
    session = SESSIONS[backend or able[0]]
    require(session.package)
    try:
        return session(file, description, threads)
    except Exception as error:  # Each package has errors of its own, without a common base.
        raise ValueError(f"{session.package} cannot load {file} ({error}): export the model again.") from error


def require(package: str) -> ModuleType:
    """The package; an ImportError that says what to install if it is not there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        what = "torch" if package == "torch" else f'{package}, or "pip install -e .[export]" in the project'
        raise ImportError(f"{package}, which this graph needs, is not installed: pip install {what}.") from error
