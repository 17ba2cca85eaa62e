"""The training step: forward in any precision on any device, losses logged without waiting for the device."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from pair_detr.modeling.divergence import DIVERGED

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_precision(cfg: CfgNode) -> torch.dtype | None:
    """The type that ``SOLVER.AMP`` asks for; None without mixed precision.

    Raises:
        ValueError: ``SOLVER.AMP.DTYPE`` is unknown.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE not in _PRECISIONS:
        raise ValueError(f'SOLVER.AMP.DTYPE is "{cfg.SOLVER.AMP.DTYPE}"; choose one of {", ".join(_PRECISIONS)}.')
    return _PRECISIONS[cfg.SOLVER.AMP.DTYPE]


class _StepMetrics(NamedTuple):
    iteration: int
    names: list[str]
    losses: torch.Tensor
    lacking: set[str]
    data_time: float


class AutocastTrainer(AMPTrainer):
    """Detectron2's ``AMPTrainer`` for every device and precision, fp32 included.

    Four things differ. Gradients are unscaled before ``optimizer.step``, which clips them: a fused optimizer would
    otherwise be handed scaled ones. Losses are kept on the device until :meth:`flush_metrics`, because reading them
    after each backward would keep the device idle. The generators of random numbers are seeded from
    (seed, process, iteration), which makes dropout of a resumed run that of the uninterrupted one, with any number of
    processes and whatever else draws random numbers in between. A batch may be computed in parts.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: object,
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype | None = None,
        seed: int | None = None,
        accumulate_steps: int = 1,
        lacks_loss: Callable[[Any, str], bool] = lambda batch, name: False,
    ) -> None:
        """
        Args:
            model: returns a dict of scalar losses, means over a batch or a part of it.
            data_loader: iterable of batches, whose lengths ``accumulate_steps`` divides.
            precision: type to autocast to; None computes in the parameters' own. float16 scales the loss.
            seed: of the random numbers of each step; None leaves the generators alone.
            accumulate_steps: parts of a batch that are computed one after the other, for the memory of one. Their
                gradients are averaged, and so are the losses that are logged.
            lacks_loss: whether a batch has nothing to do with the loss of that name, so that a zero is not logged.
        """
        self._device_type = next(model.parameters()).device.type
        scaler = torch.amp.GradScaler(self._device_type, enabled=precision == torch.float16)
        super().__init__(model, data_loader, optimizer, grad_scaler=scaler, precision=precision)
        self._seed = seed
        self._accumulate_steps = accumulate_steps
        self._lacks_loss = lacks_loss
        self._pending: list[_StepMetrics] = []

    def run_step(self) -> None:
        """One iteration: a batch, its losses, their gradients, an update."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self._seed is not None:
            state = np.random.SeedSequence([self._seed, comm.get_rank(), self.iter]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))

        self.optimizer.zero_grad()
        parts = [self._backward(data, part) for part in range(self._accumulate_steps)]
        self.after_backward()
        losses = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        lacking = {name for name in losses if self._lacks_loss(data, name)}
        values = torch.stack([loss.float() for loss in losses.values()])
        self._pending.append(_StepMetrics(self.iter, list(losses), values, lacking, data_time))

        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _backward(self, data: Any, part: int) -> dict[str, torch.Tensor]:
        """Adds the gradients of a part of the batch; returns its losses, without the graph."""
        size = len(data) // self._accumulate_steps
        is_last = part + 1 == self._accumulate_steps
        # Processes exchange the sum over the parts, once. DDP decides in the forward whether they do.
        unsynchronised = isinstance(self.model, nn.parallel.DistributedDataParallel) and not is_last
        with self.model.no_sync() if unsynchronised else nullcontext():
            with torch.autocast(self._device_type, dtype=self.precision, enabled=self.precision is not None):
                losses = self.model(data[part * size : (part + 1) * size])
            self.grad_scaler.scale(sum(losses.values()) / self._accumulate_steps).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def flush_metrics(self) -> None:
        """Logs the steps since the last call; all processes have to call it together.

        A loss is the mean over the processes whose batches have it, zeros of batches without objects among them.
        "total_loss" is what is minimized, the mean over all processes: where all batches have all losses, it is their
        sum.

        Raises:
            FloatingPointError: a loss was not finite; the message has the iteration and the losses.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        values = iter(torch.cat([step.losses for step in pending]).tolist())
        records = []
        for step in pending:
            losses = {name: next(values) for name in step.names}
            present = {name: loss for name, loss in losses.items() if loss or name not in step.lacking}
            records.append((present, step.data_time))
        by_step = zip(*comm.all_gather(records), strict=True)
        for step, of_processes in zip(pending, by_step, strict=True):
            by_process, data_times = zip(*of_processes, strict=True)
            _log_step(step.iteration, by_process, max(data_times))

    def load_state_dict(self, state_dict: dict) -> None:
        """Restores :meth:`state_dict`; a checkpoint of another precision brings no state for this one's scaler."""
        if not state_dict.get("grad_scaler"):
            state_dict = {**state_dict, "grad_scaler": self.grad_scaler.state_dict()}
        super().load_state_dict(state_dict)


def _log_step(iteration: int, by_process: Sequence[Mapping[str, float]], data_time: float) -> None:
    total = float(np.mean([sum(losses.values()) for losses in by_process]))
    names = dict.fromkeys(name for losses in by_process for name in losses)
    losses = {name: float(np.mean([losses[name] for losses in by_process if name in losses])) for name in names}
    if not np.isfinite(total):
        raise FloatingPointError(f"The loss is not finite at iteration {iteration}: {losses}. {DIVERGED}")
    storage = get_event_storage()
    storage.put_scalars(cur_iter=iteration, data_time=data_time, **losses)
    storage.put_scalar("total_loss", total, cur_iter=iteration)


class MetricsFlush(HookBase):
    """Flushes the losses before the hooks that write them or save the model; register it first, in every process."""

    def __init__(self, *periods: int) -> None:
        """
        Args:
            periods: iterations between two flushes; each positive one is kept.
        """
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self.trainer.flush_metrics()
