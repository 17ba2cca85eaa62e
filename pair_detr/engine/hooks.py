"""Hooks of the training loop."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from pair_detr.data.loader_workers import STOP_SIGNALS

logger = logging.getLogger(__name__)

# A terminal and a launcher may both pass on the same key press; only a later one is a second.
_SECONDS_TO_SECOND_SIGNAL = 1.0


def handled_signals() -> tuple[signal.Signals, ...]:
    """The signals that stop a training: all of STOP_SIGNALS, but for a SIGHUP that ``nohup`` has it ignore."""
    is_detached = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP or not is_detached)


@contextmanager
def forward_signals() -> Iterator[list[int]]:
    """Passes signals that stop a training on to the child processes; yields those received."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)

    previous = {number: signal.signal(number, forward) for number in handled_signals()}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class TrainingInterrupted(SystemExit):
    """The training was stopped by a signal after writing a checkpoint; the code is the shell's, 128 + signal."""


class EpochCounter(HookBase):
    """Writes "epoch", how often the training set has been seen, next to the losses; register it before the writers."""

    def __init__(self, iterations_per_epoch: float) -> None:
        self._length = iterations_per_epoch

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("epoch", (self.trainer.iter + 1) / self._length, smoothing_hint=False)


class GracefulStop(HookBase):
    """On SIGINT, SIGTERM or SIGHUP finishes the iteration, writes a checkpoint and raises :class:`TrainingInterrupted`.

    A second signal interrupts at once. With several processes all stop after the same iteration, whichever of them got
    the signal. Register it in every process, as the last hook. After ``nohup``, SIGHUP stays ignored.
    """

    def __init__(self) -> None:
        self._received: int = 0
        self._received_at = 0.0
        self._pid = os.getpid()
        self._previous: dict[int, object] = {}
        self._group: dist.ProcessGroup | None = None
        self._exchange: tuple[torch.Tensor, dist.Work] | None = None

    def before_train(self) -> None:
        self._received = 0
        if comm.get_world_size() > 1:
            # A group of its own keeps the order of DDP's collectives out of it, and is on the CPU for any device.
            self._group = dist.new_group(backend="gloo")
        # Of a training without an iteration only the evaluation is left, see after_step.
        is_training = self.trainer.start_iter < self.trainer.max_iter
        if is_training and threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in handled_signals()}

    def after_train(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter:
            # The last checkpoint is written. What is left is an evaluation, which nothing is lost by interrupting.
            self.after_train()
            return
        received = self._agree()
        if not received:
            return
        self.trainer.flush_metrics()
        checkpointer = self.trainer.checkpointer
        checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        comm.synchronize()
        logger.warning(
            "Stopped by %s after iteration %d of %d. The checkpoint is in %s; add --resume to the command to continue.",
            signal.Signals(received).name,
            self.trainer.iter + 1,
            self.trainer.max_iter,
            checkpointer.save_dir,
        )
        raise TrainingInterrupted(128 + received)

    def _agree(self) -> int:
        """The signal that any process has got, the same in all of them.

        It is what they knew at the end of the step before: the exchange has had a whole step, and costs no waiting.
        """
        if self._group is None:
            return self._received
        received = 0
        if self._exchange is not None:
            value, work = self._exchange
            work.wait()
            received = int(value)
        value = torch.tensor(self._received)
        self._exchange = value, dist.all_reduce(value, dist.ReduceOp.MAX, self._group, async_op=True)
        return received

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process that an evaluator has forked; SIGTERM is how the one that trains ends it.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        now = time.monotonic()
        if self._received and now - self._received_at > _SECONDS_TO_SECOND_SIGNAL:
            raise KeyboardInterrupt
        if not self._received:
            self._received, self._received_at = number, now
            logger.warning("%s: stopping after this iteration. Once more stops at once.", signal.Signals(number).name)
