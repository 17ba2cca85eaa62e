"""From a traced program to the file of each format."""

import importlib.util
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from pair_detr.runtime.description import GRAPH_FILES

if TYPE_CHECKING:
    import onnx_ir

# ONNX Runtime 1.17 and OpenVINO 2024 read it.
_OPSET = 20


class Writer(ABC):
    """A format of graphs.

    Attributes:
        packages: that write and verify it.
        precisions: that graphs of it are computed in.
        stores_precision: whether the precision is that of the weights in the graph, not one for the computation alone.
    """

    packages: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    stores_precision: ClassVar[bool] = True

    @abstractmethod
    def write(
        self, program: torch.export.ExportedProgram, outputs: Sequence[str], precision: str, folder: Path
    ) -> None:
        """Writes the file of the format; ``outputs`` are names."""


class OnnxWriter(Writer):
    """ONNX. There is no bf16: ONNX Runtime has hardly any operators of it on CPUs."""

    packages = ("onnx", "onnxscript", "onnxruntime")
    precisions = ("fp32", "fp16")

    def write(
        self, program: torch.export.ExportedProgram, outputs: Sequence[str], precision: str, folder: Path
    ) -> None:
        """See :class:`Writer`."""
        # Tells what it folds and what not, at great length.
        for name in ("onnxscript", "onnx_ir"):
            logging.getLogger(name).setLevel(logging.ERROR)
        inputs = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=_OPSET,
            input_names=inputs,
            output_names=list(outputs),
            verbose=False,
        )
        _name_dimensions(onnx_program.model)
        onnx_program.save(folder / GRAPH_FILES["onnx"])


class OpenVinoWriter(Writer):
    """OpenVINO's own format, made from ONNX. bf16 is the precision of its computation, where the CPU has it."""

    packages = ("onnx", "onnxscript", "openvino")
    precisions = ("fp32", "fp16", "bf16")
    stores_precision = False

    def write(
        self, program: torch.export.ExportedProgram, outputs: Sequence[str], precision: str, folder: Path
    ) -> None:
        """See :class:`Writer`."""
        import openvino

        OnnxWriter().write(program, outputs, precision, folder)
        source = folder / GRAPH_FILES["onnx"]
        model = openvino.convert_model(source)
        openvino.save_model(model, folder / GRAPH_FILES["openvino"], compress_to_fp16=precision == "fp16")
        # It keeps the file open that it has read the weights from.
        del model
        source.unlink()
        for weights in folder.glob(f"{source.name}*"):
            weights.unlink()


class TorchExportWriter(Writer):
    """A program of torch.export, for torch without this package's code."""

    packages = ()
    precisions = ("fp32", "fp16", "bf16")

    def write(
        self, program: torch.export.ExportedProgram, outputs: Sequence[str], precision: str, folder: Path
    ) -> None:
        """See :class:`Writer`."""
        torch.export.save(program, folder / GRAPH_FILES["torch_export"])


def _name_dimensions(model: "onnx_ir.Model") -> None:
    """Calls batch, height, width and classes by these names, which torch numbers, in all shapes of a model."""
    import onnx_ir

    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "texts": {0: "classes"}}
    names = {
        str(value.shape[axis]): name
        for value in model.graph.inputs
        for axis, name in axes.get(value.name, {}).items()
        if not isinstance(value.shape[axis], int)
    }

    def renamed(dimension: "int | onnx_ir.SymbolicDim") -> int | str | None:
        if isinstance(dimension, int) or dimension.value is None:
            return dimension if isinstance(dimension, int) else None
        return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dimension.value)

    for value in (*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs)):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([renamed(dimension) for dimension in value.shape])


WRITERS: dict[str, Writer] = {
    "onnx": OnnxWriter(),
    "openvino": OpenVinoWriter(),
    "torch_export": TorchExportWriter(),
}


def require_packages(format: str) -> None:
    """An ImportError that says what to install, if a package that writes the format is missing."""
    missing = [name for name in WRITERS[format].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"--format {format} needs {', '.join(missing)}: pip install {' '.join(missing)}, or "
            '"pip install -e .[export]" in the project.'
        )
