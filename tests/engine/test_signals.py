"""Signals as they reach whole trainings: all processes of a group, or one of several."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset
from process_helpers import start_program
from torch.multiprocessing import ProcessExitedException

from pair_detr.engine import argument_parser, run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_signals")


def wait_for(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 240
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def group_members(group: int) -> list[int]:
    """The processes of a group that run."""
    stats = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # State, parent and group follow the name in parentheses.
            stats.append((int(file.parent.name), file.read_text().rpartition(")")[2].split()))
        except OSError:
            continue
    return [pid for pid, fields in stats if int(fields[2]) == group and fields[0] != "Z"]


def assert_stopped(folder: Path, number: signal.Signals) -> None:
    """The checkpoint is of the iteration that the log names, and not one of the schedule."""
    (name, iteration) = re.search(
        r"Stopped by (\w+) after iteration (\d+) of", (folder / "log.txt").read_text()
    ).groups()
    assert name == number.name
    last = folder / (folder / "last_checkpoint").read_text()
    assert torch.load(last)["iteration"] + 1 == int(iteration)


def training(dataset: dict[str, str], folder: Path, project_root: Path, processes: int) -> list[str]:
    """Arguments of an interpreter for a long one with workers, for itself and for the evaluations in between."""
    changes = {"DATALOADER__NUM_WORKERS": 3 - processes, "DATASETS__TEST": (dataset["NAME"],), "TEST__EVAL_PERIOD": 7}
    options = tiny_options(dataset, folder, SOLVER__MAX_ITER=100000, **changes)
    return [str(project_root / "train_net.py"), "--num-gpus", str(processes), *options]


def wait_for_evaluation(folder: Path) -> bool:
    """Then there are the workers of both loaders."""
    log = folder / "log.txt"
    return wait_for(lambda: log.exists() and "Start inference on" in log.read_text())


@pytest.mark.slow
def test_timeout_signals_the_whole_group(dataset: dict[str, str], tmp_path: Path, project_root: Path) -> None:
    """It sends the signal to the process that it has started, and once more to the group."""
    command = ["timeout", "-s", "TERM", "1000", sys.executable, *training(dataset, tmp_path, project_root, 1)]
    with (
        (tmp_path / "output.txt").open("w") as output,
        # A group of its own, led by it, as a shell makes one.
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        started = wait_for_evaluation(tmp_path)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=600)
    assert started, (tmp_path / "output.txt").read_text()
    assert process.returncode == 128 + signal.SIGTERM, (tmp_path / "output.txt").read_text()
    assert_stopped(tmp_path, signal.SIGTERM)
    assert wait_for(lambda: not group_members(process.pid))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_a_key_press_signals_two_processes(dataset: dict[str, str], tmp_path: Path, project_root: Path) -> None:
    """All of the group at once: the launcher, both processes and the workers of each."""
    process = start_program(*training(dataset, tmp_path, project_root, 2), output=tmp_path, leads_group=True)
    started = wait_for_evaluation(tmp_path)
    members = len(group_members(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    process.join(timeout=240)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert started and members >= 5, (tmp_path / "stderr").read_text()
    assert process.exitcode == 128 + signal.SIGINT, (tmp_path / "stderr").read_text()
    assert_stopped(tmp_path, signal.SIGINT)
    assert wait_for(lambda: not group_members(process.pid))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_signal_to_one_of_two_processes_stops_both(dataset: dict[str, str], tmp_path: Path) -> None:
    """The status says so, though the launcher has not got the signal."""

    def hang_up_once_it_trains() -> None:
        wait_for((tmp_path / "model_0000004.pth").exists)
        os.kill(multiprocessing.active_children()[-1].pid, signal.SIGHUP)

    threading.Thread(target=hang_up_once_it_trains, daemon=True).start()
    options = tiny_options(
        dataset, tmp_path, SOLVER__MAX_ITER=100000, SOLVER__CHECKPOINT_PERIOD=5, SOLVER__KEEP_CHECKPOINTS=0
    )
    # After nohup, the tests ignore it, and so would their processes.
    of_hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stopped:
            run(argument_parser().parse_args(["--num-gpus", "2", *options]))
    finally:
        signal.signal(signal.SIGHUP, of_hangup)
    assert stopped.value.code == 128 + signal.SIGHUP
    assert_stopped(tmp_path, signal.SIGHUP)


def test_processes_that_a_signal_ends_are_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the system ends one when memory is short, and a scheduler before the training has begun."""

    def lose_one(*args: object, **options: object) -> None:
        raise ProcessExitedException("process 1 terminated", error_index=1, error_pid=2, exit_code=-status)

    monkeypatch.setattr("pair_detr.engine.launch.launch", lose_one)
    for status in (signal.SIGKILL, signal.SIGTERM):
        with pytest.raises(SystemExit) as stopped:
            run(argument_parser().parse_args(["--num-gpus", "2"]))
        assert stopped.value.code == 128 + status
        assert f"Process 1 was ended by {status.name}" in caplog.text
    assert caplog.text.count("memory is short") == 1
    status = -3
    with pytest.raises(ProcessExitedException):
        run(argument_parser().parse_args(["--num-gpus", "2"]))
