import multiprocessing
import os
import signal
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from process_helpers import kill, running
from torch.utils.data import Dataset

from pair_detr.data.loader_workers import STOP_SIGNALS, SignalSafeLoader


class Numbers(Dataset):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.01)
        return torch.tensor([index, os.getpid()])


def send(numbers: tuple[signal.Signals, ...], *pids: int) -> None:
    """From another process than the parent, whose SIGTERM ends workers."""
    kills = "; ".join(f"kill -{int(number)} {' '.join(map(str, pids))}" for number in numbers)
    subprocess.run(["sh", "-c", kills], check=True)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_ended(pids: list[int], seconds: float) -> list[int]:
    """Those still running after that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(is_running, pids)):
        time.sleep(0.05)
    return [pid for pid in pids if is_running(pid)]


# A worker that is spawned imports PyTorch, which takes seconds.
@pytest.mark.parametrize(
    ("method", "workers", "persistent"), [("fork", 2, True), ("fork", 2, False), ("spawn", 1, True)]
)
def test_workers_deliver_after_any_signal_and_end_with_the_loader(
    method: str, workers: int, persistent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = multiprocessing.process.BaseProcess.start

    def start_and_signal(process: multiprocessing.Process) -> None:
        start(process)
        # Before the worker has run much of its own.
        send(STOP_SIGNALS, process.pid)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_and_signal)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    loader = SignalSafeLoader(
        Numbers(), num_workers=workers, multiprocessing_context=method, persistent_workers=persistent, batch_size=1
    )
    batches = iter(loader)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
    first = [next(batches)[0].tolist() for _ in range(2)]
    pids = sorted({pid for _, pid in first})
    assert len(pids) == workers
    send(STOP_SIGNALS, *pids)
    rest = [batch[0, 0].item() for batch in batches]
    assert [index for index, _ in first] + rest == list(range(40))
    del batches, loader
    assert wait_until_ended(pids, 30) == []


def test_hanging_workers_are_ended_by_their_parent() -> None:
    """Python waits for ever at its end for a child that its SIGTERM does not end."""
    batches = iter(SignalSafeLoader(Numbers(), num_workers=1, persistent_workers=True))
    pid = next(batches)[0, 1].item()
    os.kill(pid, signal.SIGTERM)
    assert wait_until_ended([pid], 30) == []


def _load(connection: Connection) -> None:
    """The part of a training: tells who its workers are, and goes on."""
    batches = iter(SignalSafeLoader(Numbers(), num_workers=2, persistent_workers=True))
    connection.send([next(batches)[0, 1].item() for _ in range(2)])
    time.sleep(300)


def test_workers_end_when_the_training_is_killed() -> None:
    with running(_load) as (training, connection):
        pids = connection.recv()
        kill(training)
    assert len(set(pids)) == 2
    assert wait_until_ended(pids, 30) == []
