"""Processes that tests start, and kill."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

FORK = multiprocessing.get_context("fork")


@contextmanager
def running(work: Callable[[Connection], None]) -> Iterator[tuple[ForkProcess, Connection]]:
    """A forked process that runs ``work`` with one end of a pipe; yields it, and the other end. Killed at the end."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=work, args=(there,))
    process.start()
    try:
        yield process, here
    finally:
        kill(process)


def kill(process: ForkProcess) -> None:
    """Ends a process at once, as the system does when it is out of memory."""
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
