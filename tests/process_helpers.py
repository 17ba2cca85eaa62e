"""Processes that tests start, and kill."""

import importlib
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess, ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch.multiprocessing as mp
from detectron2_helpers import speed_up_configs

FORK = multiprocessing.get_context("fork")
# Its processes are forks of one that has imported PyTorch, see the fixture warm_start.
FORK_SERVER = multiprocessing.get_context("forkserver")


@contextmanager
def launching_by(method: str) -> Iterator[None]:
    """Detectron2's launcher starts its processes by a method other than "spawn", which takes new interpreters."""
    # The module has the name of its function.
    launcher = importlib.import_module("detectron2.engine.launch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher.mp, "start_processes", partial(mp.start_processes, start_method=method))
        yield


def start_program(*arguments: str, output: Path, leads_group: bool = False) -> ForkServerProcess:
    """Starts what ``python`` does with these arguments, a file or ``-m`` and a module in front, without its start.

    Args:
        arguments: of the interpreter.
        output: a folder for the files "stdout" and "stderr".
        leads_group: in a process group of its own, as a shell starts it.
    """
    process = FORK_SERVER.Process(target=_execute, args=(arguments, output, dict(os.environ), leads_group))
    process.start()
    return process


def run_program(*arguments: str, output: Path) -> CompletedProcess:
    """Waits for the end of :func:`start_program`."""
    process = start_program(*arguments, output=output)
    process.join()
    texts = [(output / name).read_text() for name in ("stdout", "stderr")]
    return CompletedProcess(arguments, process.exitcode, *texts)


def _execute(arguments: tuple[str, ...], output: Path, environment: dict[str, str], leads_group: bool) -> None:
    if leads_group:
        os.setsid()
    speed_up_configs()
    # That of the fork server is from its start.
    os.environ.clear()
    os.environ.update(environment)
    output.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    # As in a new interpreter; what FORK_SERVER started would start another fork server.
    multiprocessing.set_start_method("fork", force=True)
    with launching_by("fork"):
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")


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
