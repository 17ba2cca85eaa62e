"""Trainings in processes that torchrun or srun has started."""

import json
import os
import runpy
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
import torch.distributed.run as torchrun
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pair_detr.engine import argument_parser, external_launch, run
from pair_detr.engine.external_launch import find_place

TORCHRUN = {
    **{"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"},
    **{"MASTER_PORT": "29400", "TORCHELASTIC_RUN_ID": "abc", "TORCHELASTIC_RESTART_COUNT": "2"},
}
SRUN = {
    **{"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
    **{"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "31234"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "external_launch")


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def _interpret(*arguments: str) -> None:
    """What the interpreter does with these arguments, -u and a file in front."""
    sys.argv = list(arguments[1:])
    runpy.run_path(arguments[1], run_name="__main__")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_two_processes_of_torchrun(
    dataset: dict[str, str], tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a batch, and end with the same weights."""

    def launch_forks(config: LaunchConfig, entrypoint: str) -> elastic_launch:
        """New interpreters would import PyTorch, for seconds each."""
        assert entrypoint == sys.executable
        config.start_method, config.monitor_interval = "forkserver", 0.1
        return elastic_launch(config, _interpret)

    monkeypatch.setattr(torchrun, "elastic_launch", launch_forks)
    options = tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=2)
    command = ["--standalone", "--nproc_per_node", "2", str(project_root / "train_net.py"), *options]
    torchrun.run(torchrun.parse_args(command))
    assert [row["iteration"] for row in rows_of(tmp_path)][-1] == 1
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 1
    # The log of the second process.
    assert "Rank of current process: 1. World size: 2" in (tmp_path / "log.txt.rank1").read_text()


def _fails_once(options: list[str]) -> None:
    """A training whose first attempt has a checkpoint of the third iteration, and fails in one of its processes."""
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    run(argument_parser().parse_args([*options, *(["SOLVER.MAX_ITER", "3"] if is_first else [])]))
    if is_first and os.environ["RANK"] == "1":
        raise RuntimeError("a failure on purpose")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_a_restarted_job_resumes(dataset: dict[str, str], tmp_path: Path) -> None:
    options = tiny_options(dataset, tmp_path, SOLVER__MAX_ITER=5)
    config = LaunchConfig(
        **{"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "start_method": "forkserver", "max_restarts": 1},
        **{"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "a job", "monitor_interval": 0.1},
    )
    elastic_launch(config, _fails_once)(options)
    assert not (tmp_path / "earlier_1").exists()
    assert torch.load(tmp_path / "model_final.pth")["pair_detr"]["iteration"] == 4
    log = (tmp_path / "log.txt").read_text()
    assert "The job was restarted: resuming its training." in log
    assert "Starting training from iteration 3" in log


def test_a_restarted_job_resumes_no_training_of_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    # It failed before its training began: what is there is of an earlier one.
    assert not external_launch.continues_after_restart(tmp_path)
    external_launch.note_job(tmp_path)
    assert external_launch.continues_after_restart(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert not external_launch.continues_after_restart(tmp_path)
    external_launch.note_job(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not external_launch.continues_after_restart(tmp_path)
    monkeypatch.delenv("LOCAL_RANK")
    external_launch.note_job(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_places() -> None:
    place = find_place(TORCHRUN)
    assert astuple(place) == ("torchrun", 3, 1, 4, 2, ("10.0.0.1", "29400"), "abc", 2)
    assert astuple(find_place(SRUN)) == ("srun", 5, 1, 8, 4, ("gpu07", "16234"), "slurm 31234", 0)
    # torchrun in a task of srun.
    assert find_place(SRUN | TORCHRUN) == place
    own = {"MASTER_ADDR": "head", "MASTER_PORT": "5", "SLURM_RESTART_COUNT": "1"}
    assert astuple(find_place(SRUN | own))[5:] == (("head", "5"), "slurm 31234", 1)
    assert find_place({}) is None
    # A shell of srun, and a batch script.
    assert find_place(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("one", "one"), ("a,b", "a"), ("a-[3,5-7],b2", "a-3"), ("n[001-120]-ib", "n001-ib"), ("x,gpu[1-2]", "x")],
)
def test_first_node(nodes: str, first: str) -> None:
    assert find_place(SRUN | {"SLURM_STEP_NODELIST": nodes}).address[0] == first


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"LOCAL_RANK": "0", "RANK": "0"}, "torchrun's, but lacks WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_"),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "srun's, but lacks SLURM_STEP_NODELIST: .* unset SLURM_STEP_NUM_TASKS"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4,2(x2)"}, r"PER_NODE is 4,2\(x2\); .* every node: set --ntasks-per"),
        (SRUN | {"SLURM_LOCALID": "2"}, "Process 5 of 8 is number 2 of 4 on its machine; .*--distribution=block"),
        (TORCHRUN | {"WORLD_SIZE": "5"}, "as many on every machine"),
    ],
)
def test_environments_that_make_no_sense(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_place(environment)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--num-gpus", "8"],
            r"^--num-gpus: torchrun has started 4 processes .* Leave it out, or start without torchr",
        ),
        (["--num-machines", "2", "--machine-rank", "1"], r"^--num-machines, --machine-rank: .* Leave them out"),
        (["--dist-url", "tcp://a:1"], "^--dist-url: "),
    ],
)
def test_a_command_that_starts_processes_itself(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        run(argument_parser().parse_args(flags))


@pytest.mark.parametrize(
    ("environment", "gpus", "device"),
    [(TORCHRUN, 2, 1), (TORCHRUN, 1, None), (SRUN, 4, 1), (SRUN, 1, 0), (SRUN, 2, None)],
)
def test_gpus_of_processes(
    environment: dict[str, str], gpus: int, device: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    joining = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: joining.update(device=index))
    monkeypatch.setattr(external_launch, "rendezvous", lambda *_, **__: iter([(torch.distributed.HashStore(), 0, 1)]))
    monkeypatch.setattr(external_launch.dist, "init_process_group", lambda name, **kwargs: joining.update(kwargs))
    monkeypatch.setattr(external_launch.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(external_launch.comm, "create_local_process_group", lambda size: joining.update(local=size))
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    place = find_place(environment)
    if device is None:
        with (
            pytest.raises(ValueError, match=rf"processes on this machine, which has {gpus} GPUs: start {gpus}"),
            external_launch.joined(place),
        ):
            pass
        return
    with external_launch.joined(place):
        assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == place.address
    assert joining["device"] == device
    assert (joining["rank"], joining["world_size"]) == (place.rank, place.world_size)
    assert joining["local"] == place.local_world_size
