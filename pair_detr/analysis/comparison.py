"""Models and ways to run them, timed against each other."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from pair_detr.analysis.backends import Backend, StepMaker, prepare_inference, yardstick_of
from pair_detr.analysis.flops import count_flops
from pair_detr.analysis.matmul_rate import share_of_rate
from pair_detr.analysis.speed import Timing, make_batch, measure, summarize, training_bytes
from pair_detr.analysis.training_steps import matcher_share, prepare_training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workload:
    """What models are timed with.

    Attributes:
        mode: "inference" or "training".
        sizes: height and width of the images in pixels.
        batches: numbers of images.
        boxes: objects of an image, in training.
        repeats: timed rounds.
    """

    mode: str
    sizes: Sequence[tuple[int, int]]
    batches: Sequence[int]
    boxes: int
    repeats: int


@dataclass(frozen=True)
class _Case:
    """A model and a way to run it; ``model`` is None in inference."""

    name: str
    cfg: CfgNode
    backend: Backend
    make: StepMaker
    model: nn.Module | None = None

    def make_batch(self, images: int, size: tuple[int, int], boxes: int) -> list[dict[str, Any]]:
        model = self.cfg.MODEL
        # A text classifier has the classes of its vocabulary.
        num_classes = getattr(self.model, "num_classes", model.DETR.NUM_CLASSES)
        return make_batch(images, size, boxes, num_classes, model.MASK_ON, len(model.PIXEL_MEAN))

    def costs(
        self, batch: list[dict[str, Any]], timing: Timing, rates: Mapping[str, float], flops: float
    ) -> dict[str, float | None]:
        """What is known beside the time; None where it does not apply."""
        if self.model is None:
            return {"matmul_share": self._matmul_share(batch, timing, rates, flops)}
        device, precision = self.cfg.MODEL.DEVICE, self.backend.precision
        is_ours, can_count = not self.backend.is_yardstick, not self.backend.is_compiled
        return {
            "matmul_share": self._matmul_share(batch, timing, rates, flops),
            "matcher_share": matcher_share(self.make(batch), self.model.criterion, device) if is_ours else None,
            "saved_bytes": training_bytes(self.model, batch, device, precision) if can_count else None,
        }

    def _matmul_share(
        self, batch: list[dict[str, Any]], timing: Timing, rates: Mapping[str, float], flops: float
    ) -> float | None:
        if self.backend.is_yardstick:
            return None
        rate = rates[self.backend.precision]
        return share_of_rate(flops, len(batch), timing.seconds, rate, training=self.model is not None)


def compare(
    configs: Mapping[str, CfgNode], backends: Sequence[Backend], workload: Workload, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Times all models and ways to run them in turn, for each size and number of images.

    Args:
        configs: of the models, by name; transformers' model is that of the first.
        backends: ways to run each of them.
        workload: what with.
        rates: multiply-adds a second of a product of matrices, by precision.

    Returns:
        A dict per size, number of images and case: "config", "backend", "size", "batch", "images_per_second", the
        numbers of :class:`pair_detr.analysis.speed.Timing` and "matmul_share", the share of the rate; in training
        "matcher_share" of the time, and "saved_bytes" that are kept for the backward pass. None where one does not
        apply. Batches that the device has no memory for are left out.
    """
    with ExitStack() as folders:
        cases = _prepare(configs, backends, workload.mode, folders)
        detectors = {name: build_model(cfg).eval().detector for name, cfg in configs.items()}
        rows: list[dict[str, Any]] = []
        for size in workload.sizes:
            flops = {
                name: count_flops(detector, *size, len(configs[name].MODEL.PIXEL_MEAN))[0][""]
                for name, detector in detectors.items()
            }
            for images in workload.batches:
                if any(backend.has_fixed_size(workload.mode) for backend in backends):
                    # Else torch.compile, after some sizes, would leave the model as it is without a word.
                    torch.compiler.reset()
                try:
                    rows += _time(cases, images, size, workload, rates, flops)
                except torch.OutOfMemoryError:
                    if not rows:
                        raise
                    logger.warning("%d images of %dx%d pixels: out of memory, left out.", images, *size)
                    torch.cuda.empty_cache()
        return rows


def _prepare(configs: Mapping[str, CfgNode], backends: Sequence[Backend], mode: str, folders: ExitStack) -> list[_Case]:
    cases = []
    for number, (name, cfg) in enumerate(configs.items()):
        for backend in backends:
            if backend.is_yardstick and number:
                continue
            logger.info("Preparing %s, %s", name, backend)
            if mode == "training":
                model, make = prepare_training(cfg, backend)
                cases.append(_Case(name, cfg, backend, make, model))
            else:
                folder = Path(folders.enter_context(tempfile.TemporaryDirectory()))
                cases.append(_Case(name, cfg, backend, prepare_inference(cfg, backend, folder)))
    return cases


def _time(
    cases: Sequence[_Case],
    images: int,
    size: tuple[int, int],
    workload: Workload,
    rates: Mapping[str, float],
    flops: Mapping[str, float],
) -> list[dict[str, Any]]:
    batches = [case.make_batch(images, size, workload.boxes) for case in cases]
    steps = [case.make(batch) for case, batch in zip(cases, batches, strict=True)]
    seconds = measure(steps, workload.repeats, cases[0].cfg.MODEL.DEVICE)
    timings = summarize(seconds, yardstick_of([case.backend for case in cases]))
    rows = []
    for case, batch, timing in zip(cases, batches, timings, strict=True):
        row = {"config": case.name, "backend": str(case.backend), "size": f"{size[0]}x{size[1]}", "batch": images}
        row |= {"images_per_second": images / timing.seconds, **asdict(timing)}
        rows.append(row | case.costs(batch, timing, rates, flops[case.name]))
    return rows
