"""Which checkpoints of a training are kept: the last few, and the best; and when a training stops early."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine.hooks import BestCheckpointer, PeriodicCheckpointer
from detectron2.utils import comm
from torch import nn

from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.checkpoint.search import FINAL_CHECKPOINT, numbered_checkpoints
from pair_detr.engine.summary import main_metric
from pair_detr.utils.disk_space import format_size, free_space
from pair_detr.utils.json_files import read_json, write_json

logger = logging.getLogger(__name__)

# In OUTPUT_DIR: what the evaluations so far found, which a resumed training goes on from.
EVALUATIONS = "evaluations.json"


class StoppedEarly(BaseException):
    """The training has ended before its last iteration: nothing improves. Detectron2 would log an Exception as one."""


class LastCheckpoints(PeriodicCheckpointer):
    """Detectron2's hook, which removes the oldest when there are too many.

    Its own ``max_to_keep`` forgets those before a resumption.
    """

    def __init__(self, checkpointer: AtomicCheckpointer, period: int, keep: int) -> None:
        """
        Args:
            checkpointer: writes them.
            period: iterations between two.
            keep: how many of those with a number stay, also of those that a signal had written; 0 keeps all.
        """
        super().__init__(checkpointer, period)
        self._keep = keep

    def after_step(self) -> None:
        super().after_step()
        done = self.trainer.iter + 1
        if self._keep and (done % self.period == 0 or done >= self.trainer.max_iter):
            # Those of later iterations are of a part of the training that is done again.
            paths = numbered_checkpoints(self.checkpointer.save_dir)
            written = [paths[number] for number in sorted(paths) if number <= self.trainer.iter]
            for path in written[: -self._keep]:
                path.unlink(missing_ok=True)


class Evaluated(NamedTuple):
    """What an evaluation found: the iterations before it, the metric's name, and its value in percent or NaN."""

    iterations: int
    metric: str
    value: float


class BestModel(BestCheckpointer):
    """Detectron2's hook, which keeps the weights of the best evaluation as ``model_best.pth``; and early stopping.

    It is resumable: evaluations are recorded in a file. Register it in all processes, after the hooks that evaluate and
    write metrics.
    """

    def __init__(
        self, period: int, checkpointer: AtomicCheckpointer, metric: str, patience: int, results: Callable[[], Mapping]
    ) -> None:
        """
        Args:
            period: iterations between two evaluations.
            checkpointer: writes the weights.
            metric: its full name, as "bbox/AP50"; "" takes that of :func:`pair_detr.engine.summary.main_metric`.
            patience: evaluations in a row without a better one that end the training; 0 never ends it.
            results: returns those of the last evaluation.
        """
        super().__init__(period, _WeightsAlone(checkpointer), metric)
        self._patience = patience
        self._results = results
        self._file = Path(checkpointer.save_dir, EVALUATIONS)
        # In the first process alone.
        self._evaluated: list[Evaluated] = []

    def resume(self, start_iter: int) -> None:
        """Takes up what was recorded before an iteration; what came later is done again."""
        self._evaluated = []
        if start_iter and comm.is_main_process() and self._file.is_file():
            found = [Evaluated(x["iterations"], x["metric"], _number(x["value"])) for x in read_json(self._file)]
            self._evaluated = [x for x in found if x.iterations <= start_iter]
        best = self.best
        self.best_metric, self.best_iter = (best.value, best.iterations - 1) if best else (None, None)

    @property
    def best(self) -> Evaluated | None:
        """The first of the best evaluations; None if there is none, and in other processes than the first."""
        numbers = [x for x in self._evaluated if not math.isnan(x.value)]
        return max(numbers, key=lambda x: x.value, default=None)

    def is_exhausted(self) -> bool:
        """Whether the patience is, the same in all processes, which have to call it together."""
        best = self.best
        later = sum(x.iterations > best.iterations for x in self._evaluated) if best else len(self._evaluated)
        return any(comm.all_gather(bool(self._patience) and later >= self._patience))

    def after_step(self) -> None:
        super().after_step()
        done = self.trainer.iter + 1
        if self._patience and done % self._period == 0 and done != self.trainer.max_iter and self.is_exhausted():
            self.trainer.checkpointer.save(Path(FINAL_CHECKPOINT).stem, iteration=self.trainer.iter)
            raise StoppedEarly

    def _best_checking(self) -> None:
        if not comm.is_main_process():
            return
        self._val_metric = self._val_metric or main_metric(self._results()) or ""
        super()._best_checking()
        if self._val_metric not in self.trainer.storage.latest():
            return
        value, _ = self.trainer.storage.latest()[self._val_metric]
        # After the training, its iteration is that after the last.
        iterations = min(self.trainer.iter + 1, self.trainer.max_iter)
        kept = [x for x in self._evaluated if x.iterations < iterations]
        self._evaluated = [*kept, Evaluated(iterations, self._val_metric, float(value))]
        rows = [{**x._asdict(), "value": x.value if math.isfinite(x.value) else None} for x in self._evaluated]
        write_json(rows, self._file)


def build_best_model(
    cfg: CfgNode, checkpointer: AtomicCheckpointer, results: Callable[[], Mapping]
) -> BestModel | None:
    """The hook of a training, whose schedule is in iterations; None if only its last weights are evaluated."""
    if not cfg.TEST.EVAL_PERIOD or not cfg.DATASETS.TEST:
        return None
    return BestModel(cfg.TEST.EVAL_PERIOD, checkpointer, cfg.TEST.BEST_METRIC, cfg.TEST.PATIENCE, results)


class _WeightsAlone:
    """A checkpointer for Detectron2's hook; a training is not resumed from the best weights, but from the last."""

    def __init__(self, checkpointer: AtomicCheckpointer) -> None:
        self._checkpointer = checkpointer

    def save(self, name: str, **_: Any) -> None:
        self._checkpointer.save_weights(name)


def warn_of_large_checkpoints(
    cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, start_iter: int, is_averaged: bool
) -> None:
    """Warns if what a training will leave in its folder does not fit on the disk.

    Args:
        cfg: config of the training.
        model: to be trained.
        optimizer: trains it.
        start_iter: the first iteration.
        is_averaged: whether an average of the weights is saved next to them.
    """
    # SGD keeps one number for each that is trained, AdamW two, and Muon one or two.
    states = 1 if isinstance(optimizer, torch.optim.SGD) else 2
    weights = sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    size = (2 if is_averaged else 1) * weights + states * sum(x.nbytes for x in model.parameters() if x.requires_grad)
    period, keep = cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.KEEP_CHECKPOINTS
    # The last iteration has one as well.
    numbered = math.ceil(cfg.SOLVER.MAX_ITER / period) - start_iter // period
    # The next one is written before the oldest is removed.
    count = min(numbered, keep + 1) if keep else numbered
    final_and_best = 2 if cfg.TEST.EVAL_PERIOD and cfg.DATASETS.TEST else 1
    total = size * count + final_and_best * weights
    free = free_space(Path(cfg.OUTPUT_DIR))
    if total > free:
        logger.warning(
            "This training will write %d checkpoints of about %s, and the final weights, %s in all, but %s has %s "
            "left. Free space, raise SOLVER.CHECKPOINT_PERIOD, or lower SOLVER.KEEP_CHECKPOINTS.",
            count,
            *map(format_size, (size, total)),
            cfg.OUTPUT_DIR,
            format_size(free),
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
