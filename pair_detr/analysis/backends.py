"""The ways to run a model: what each is called and needs, and how it becomes a function that can be timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from pair_detr.analysis.speed import PRECISIONS, autocast
from pair_detr.analysis.yardstick import TransformersDetector

Step = Callable[[], Any]
# From a batch, as pair_detr.analysis.speed.make_batch makes it, to what detects objects in it or trains with it.
StepMaker = Callable[[list[dict[str, Any]]], Step]

# What each runtime is, for --help.
RUNTIMES = {
    "plain": "the model as it is built, under autocast",
    "torch": "the same, in inference prepared for it",
    "compiled": "by torch.compile",
    "cudagraphs": "by torch.compile, as CUDA graphs",
    "onnxruntime": "exported, by ONNX Runtime",
    "openvino": "exported, by OpenVINO",
    "transformers": "transformers' model of the same architecture",
}
# Formats of pair_detr.deployment.
_EXPORTED = {"onnxruntime": "onnx", "openvino": "openvino"}
_COMPILED = ("compiled", "cudagraphs")
# In training "torch" is the model as it is built.
_INFERENCE_ONLY = ("plain", *_EXPORTED)
_EXTRAS = {"onnxruntime": "-e .[export]", "openvino": "-e .[export]", "transformers": "transformers"}


@dataclass(frozen=True)
class Backend:
    """A way to run a model.

    Attributes:
        runtime: one of RUNTIMES.
        precision: one of PRECISIONS.
    """

    runtime: str
    precision: str = "fp32"

    @classmethod
    def parse(cls, text: str) -> "Backend":
        """Reads RUNTIME or RUNTIME:PRECISION.

        Raises:
            ValueError: one of them is unknown.
        """
        runtime, _, precision = text.partition(":")
        backend = cls(runtime, precision or "fp32")
        if backend.runtime not in RUNTIMES or backend.precision not in PRECISIONS:
            raise ValueError(
                f"{text!r} is not of the form RUNTIME or RUNTIME:PRECISION, with one of {', '.join(RUNTIMES)} and one "
                f"of {', '.join(PRECISIONS)}"
            )
        return backend

    def __str__(self) -> str:
        return f"{self.runtime}:{self.precision}"

    @property
    def is_prepared(self) -> bool:
        """Whether :func:`pair_detr.inference.prepare_for_inference` takes part in inference."""
        return self.runtime in ("torch", *_COMPILED)

    @property
    def is_compiled(self) -> bool:
        """Whether torch.compile takes part."""
        return self.runtime in _COMPILED

    def has_fixed_size(self, mode: str) -> bool:
        """Whether it is compiled for each size and number of images by itself, in a mode as of :meth:`require`."""
        return self.runtime == "cudagraphs" or (self.is_compiled and mode == "training")

    @property
    def is_yardstick(self) -> bool:
        """Whether the others are compared with it."""
        return self.runtime == "transformers"

    def require(self, device: str, mode: str) -> None:
        """Makes sure that the backend can run.

        Args:
            device: MODEL.DEVICE.
            mode: "inference" or "training".

        Raises:
            ImportError: a package is not installed.
            ValueError: it cannot train, or needs another device.
        """
        if mode == "training" and self.runtime in _INFERENCE_ONLY:
            raise ValueError(
                f"{self}: {RUNTIMES[self.runtime]}, a way of inference. Leave it out, or choose --mode inference."
            )
        if self.runtime in _EXPORTED:
            from pair_detr.deployment import ExportOptions

            ExportOptions(_EXPORTED[self.runtime], self.precision)
        if self.runtime in _EXTRAS and find_spec(self.runtime) is None:
            raise ImportError(f'{self}: {self.runtime} is not installed; run "pip install {_EXTRAS[self.runtime]}".')
        if self.runtime == "cudagraphs" and not device.startswith("cuda"):
            raise ValueError(f"{self} needs a GPU, and MODEL.DEVICE is {device}. Leave it out.")


def yardstick_of(backends: Sequence[Backend]) -> int:
    """The position of that which the others are compared with: transformers' first, or else the first."""
    return next((i for i, backend in enumerate(backends) if backend.is_yardstick), 0)


def build(cfg: CfgNode, backend: Backend) -> nn.Module:
    """The model of a backend, with the same random weights for each that runs this package's."""
    torch.manual_seed(0)
    if backend.is_yardstick:
        return TransformersDetector(cfg).to(cfg.MODEL.DEVICE)
    return build_model(cfg)


def prepare_inference(cfg: CfgNode, backend: Backend, folder: Path) -> StepMaker:
    """What detects objects: from images of the host's memory to boxes, scores and classes there.

    Args:
        cfg: config of the model.
        backend: how it is run.
        folder: an empty one for what is exported.
    """
    if backend.runtime in _EXPORTED:
        return _exported(cfg, backend, folder)
    model = build(cfg, backend).eval()
    precision = backend.precision
    if backend.is_prepared:
        from pair_detr.inference import prepare_for_inference

        # It stores the weights in the precision, and casts by itself.
        model = prepare_for_inference(model, precision, compile=backend.runtime == "compiled")
        precision = "fp32"
    if backend.runtime == "cudagraphs":
        compile_detector(model, backend)

    def make(batch: list[dict[str, Any]]) -> Step:
        @torch.inference_mode()
        def detect() -> list[Any]:
            if backend.runtime == "cudagraphs":
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(cfg.MODEL.DEVICE, precision):
                return [output["instances"].to("cpu") for output in model(batch)]

        return detect

    return make


def compile_detector(model: nn.Module, backend: Backend) -> None:
    """Compiles the network of a model in place, for each size by itself; losses and post-processing stay eager."""
    # Sizes are fixed here: a graph for any size would be slower, and CUDA graphs know none.
    model.detector.compile(dynamic=False, mode="reduce-overhead" if backend.runtime == "cudagraphs" else None)


def _exported(cfg: CfgNode, backend: Backend, folder: Path) -> StepMaker:
    from pair_detr.deployment import ExportOptions, export_model
    from pair_detr.runtime import load as load_exported

    options = ExportOptions(_EXPORTED[backend.runtime], backend.precision, cfg.TEST.DETECTIONS_PER_IMAGE)
    export_model(build(cfg, backend).eval(), cfg, folder, options)
    # As many threads as the others have.
    detector = load_exported(folder, threads=torch.get_num_threads())

    def make(batch: list[dict[str, Any]]) -> Step:
        images = [item["image"].permute(1, 2, 0).contiguous().numpy() for item in batch]
        # The images have the size of the model.
        prepared = [(image, image.shape[:2]) for image in images]
        return lambda: detector.predict(prepared)

    return make
