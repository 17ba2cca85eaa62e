"""The training step: forward in any precision on any device, losses logged without waiting for the device."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

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
    ) -> None:
        """
        Args:
            model: returns a dict of scalar losses, means over a batch or a part of it.
            data_loader: iterable of batches, whose lengths ``accumulate_steps`` divides.
            optimizer: of the model's parameters.
            precision: type to autocast to; None computes in the parameters' own. float16 scales the loss.
            seed: of the random numbers of each step; None leaves the generators alone.
            accumulate_steps: parts of a batch that are computed one after the other, for the memory of one. Their
                gradients are averaged, and so are the losses that are logged.
        """
        self._device_type = next(model.parameters()).device.type
        scaler = torch.amp.GradScaler(self._device_type, enabled=precision == torch.float16)
        super().__init__(model, data_loader, optimizer, grad_scaler=scaler, precision=precision)
        self._seed = seed
        self._accumulate_steps = accumulate_steps
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
        self._write_metrics({name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}, data_time)

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

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = "") -> None:
        losses = torch.stack([loss.detach().float() for loss in loss_dict.values()])
        self._pending.append(_StepMetrics(self.iter, [prefix + name for name in loss_dict], losses, data_time))

    def flush_metrics(self) -> None:
        """Logs the steps since the last call, averaged over processes; all processes have to call it together.

        Raises:
            FloatingPointError: a loss was not finite; the message has the iteration and the losses.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        values = iter(torch.cat([step.losses for step in pending]).tolist())
        records = [{**{name: next(values) for name in step.names}, "data_time": step.data_time} for step in pending]
        by_step = zip(*comm.all_gather(records), strict=True)
        for step, of_processes in zip(pending, by_step, strict=True):
            losses = {name: [record[name] for record in of_processes] for name in step.names}
            data_time = max(record["data_time"] for record in of_processes)
            _log_step(step.iteration, losses, data_time)

    def load_state_dict(self, state_dict: dict) -> None:
        """Restores :meth:`state_dict`; a checkpoint of another precision brings no state for this one's scaler."""
        if not state_dict.get("grad_scaler"):
            state_dict = {**state_dict, "grad_scaler": self.grad_scaler.state_dict()}
        super().load_state_dict(state_dict)


def _log_step(iteration: int, by_process: dict[str, list[float]], data_time: float) -> None:
    total = float(np.sum([np.mean(values) for values in by_process.values()]))
    # Batches that do not have a loss give exactly zero: of image labels for boxes, of boxes for image labels. Logged,
    # these would drown the others: with four batches of labels for one of boxes their median is zero.
    losses = {name: float(np.mean([v for v in values if v])) for name, values in by_process.items() if any(values)}
    if not np.isfinite(total):
        raise FloatingPointError(
            f"The loss is not finite at iteration {iteration}: {losses}. Lower SOLVER.BASE_LR or raise "
            "SOLVER.WARMUP_ITERS; with SOLVER.AMP.DTYPE float16, try bfloat16."
        )
    storage = get_event_storage()
    storage.put_scalars(cur_iter=iteration, data_time=data_time, **losses)
    storage.put_scalar("total_loss", total, cur_iter=iteration)


class MetricsFlush(HookBase):
    """Flushes the losses before other hooks need them: those that write them, and those that save the model.

    Register it in every process and before those hooks.
    """

    def __init__(self, *periods: int) -> None:
        """
        Args:
            periods: iterations between two flushes; each of them is kept. Those that are not positive are left out.
        """
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self.trainer.flush_metrics()
