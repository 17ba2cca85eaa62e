"""The training step as it is timed, and the share of it that is spent on matching."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from pair_detr.analysis.backends import Backend, Step, StepMaker, build, compile_detector
from pair_detr.analysis.speed import PRECISIONS, synchronizer
from pair_detr.engine import build_optimizer
from pair_detr.engine.train_loop import AutocastTrainer
from pair_detr.losses.criterion import SetCriterion
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.structures import Assignment


def prepare_training(cfg: CfgNode, backend: Backend) -> tuple[nn.Module, StepMaker]:
    """A model, and what trains it by a step: forward, losses, backward, clipping and the optimizer.

    The learning rates of transformers' model are those of the config; its optimizer is always AdamW.
    """
    model = build(cfg, backend).train()
    if backend.is_yardstick:
        cfg = cfg.clone()
        cfg.SOLVER.OPTIMIZER = "ADAMW"
    if backend.is_compiled:
        compile_detector(model, backend)
    optimizer = build_optimizer(cfg, model)

    def make(batch: list[dict[str, Any]]) -> Step:
        precision = PRECISIONS[backend.precision]
        trainer = AutocastTrainer(model, itertools.repeat(batch), optimizer, precision=precision)

        def train() -> None:
            if backend.runtime == "cudagraphs":
                torch.compiler.cudagraph_mark_step_begin()
            trainer.run_step()

        return train

    return model, make


class _TimedMatcher:
    """A matcher that adds up the time of its calls, with what the device was given before it left out."""

    def __init__(self, matcher: HungarianMatcher, synchronize: Callable[[], None], clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        self._matcher, self._synchronize, self._clock = matcher, synchronize, clock

    def __call__(self, *arguments: Any) -> Assignment:
        self._synchronize()
        start = self._clock()
        assignment = self._matcher(*arguments)
        self._synchronize()
        self.seconds += self._clock() - start
        return assignment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)


@contextmanager
def _timed(
    criterion: SetCriterion, synchronize: Callable[[], None], clock: Callable[[], float]
) -> Iterator[_TimedMatcher]:
    matcher = criterion.matcher
    criterion.matcher = _TimedMatcher(matcher, synchronize, clock)
    try:
        yield criterion.matcher
    finally:
        criterion.matcher = matcher


def matcher_share(
    step: Step, criterion: SetCriterion, device: str, steps: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The share of the time of training steps that is spent on matching queries with objects.

    These steps wait for the device before and after the matching, which others do not: time them apart.

    Args:
        step: trains a model by a step.
        criterion: of that model.
        device: where it is.
        steps: to take.
        clock: returns seconds.
    """
    synchronize = synchronizer(device)
    with _timed(criterion, synchronize, clock) as matcher:
        synchronize()
        start = clock()
        for _ in range(steps):
            step()
        synchronize()
        return matcher.seconds / (clock() - start)
