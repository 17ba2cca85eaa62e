"""Loaders whose workers leave it to the training process when to end."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

# On these a training writes a checkpoint and stops: a key press, a scheduler or `timeout`, a closed terminal.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_SECONDS_BETWEEN_LOOKS = 2.0


class SignalSafeLoader(DataLoader):
    """A ``DataLoader`` whose workers survive signals that are sent to the whole process group.

    A terminal, ``timeout`` and most schedulers send theirs to every process. The training process still needs the
    batches of the iteration that it finishes before it writes a checkpoint and ends the workers.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        """``options`` are further arguments of ``DataLoader``, except for ``worker_init_fn``."""
        super().__init__(dataset, worker_init_fn=_outlive_signals, **options)

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            return super().__iter__()
        if (self.multiprocessing_context or multiprocessing).get_start_method() != "fork":
            # Else it would be started with the first worker, and unblock signals.
            resource_tracker.ensure_running()
        # Workers inherit what is blocked, and so are safe from their first moment on.
        with _blocked():
            return super().__iter__()


@contextmanager
def _blocked() -> Iterator[None]:
    """Holds back STOP_SIGNALS until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_signals(worker_id: int) -> None:
    """Makes this worker end by SIGTERM of its parent, as torch ends one that hangs, but by no one else's signals."""
    blocked = set(STOP_SIGNALS)
    if not hasattr(signal, "sigtimedwait"):
        # On macOS one cannot tell who sent it.
        blocked.remove(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(started_by: int) -> None:
    """Ends this process by its parent's SIGTERM, or soon after its parent has died."""
    parent = multiprocessing.parent_process()
    senders = {started_by} if parent is None else {started_by, parent.pid}
    while os.getppid() == started_by:
        received = _wait_for_sigterm(_SECONDS_BETWEEN_LOOKS)
        if received is not None and received.si_pid in senders:
            os._exit(0)
    os._exit(1)


def _wait_for_sigterm(seconds: float) -> Any:
    if hasattr(signal, "sigtimedwait"):
        return signal.sigtimedwait([signal.SIGTERM], seconds)
    threading.Event().wait(seconds)
    return None
