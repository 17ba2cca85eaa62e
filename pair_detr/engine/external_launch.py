"""Processes that ``torchrun`` or SLURM's ``srun`` has started: which of them this one is, and what a restart means."""

import argparse
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.distributed.rendezvous import rendezvous

from pair_detr.utils.atomic import atomic_write

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Of the step, which srun sets; a batch script that srun does not run has some of the job's.
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
# In the output folder: the job whose training it holds.
_JOB_FILE = ".job"


@dataclass(frozen=True)
class Place:
    """A process among those that another program has started.

    Args:
        launcher: that program.
        rank: of the process, from 0.
        local_rank: the same among the processes of its machine.
        world_size: number of processes.
        local_world_size: the same on each machine.
        address: host and port of the first process.
        job: what tells the job from others; the same after a restart.
        restarts: how often it was restarted.
    """

    launcher: str
    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    address: tuple[str, str]
    job: str
    restarts: int

    def __post_init__(self) -> None:
        if self.world_size % self.local_world_size or self.rank % self.local_world_size != self.local_rank:
            raise ValueError(
                f"Process {self.rank} of {self.world_size} is number {self.local_rank} of {self.local_world_size} on "
                "its machine; there must be as many on every machine, and ranks must be in the order of the machines "
                "(srun --ntasks-per-node=N --distribution=block; torchrun with the same --nproc_per_node on all)."
            )

    @property
    def sharing_cores(self) -> int:
        """How many processes share the cores that this one may use."""
        is_bound = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)
        return 1 if is_bound and self.launcher == "srun" else self.local_world_size


def find_place(environment: Mapping[str, str]) -> Place | None:
    """The place of this process by the environment variables of torchrun or else of srun; None if neither started it.

    Raises:
        ValueError: they contradict each other, or some are missing.
    """
    if "LOCAL_RANK" in environment:
        return _place_of_torchrun(environment)
    # A single task, as an interactive shell, may start processes of its own.
    if int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return _place_of_srun(environment)
    return None


def _place_of_torchrun(environment: Mapping[str, str]) -> Place:
    _require_variables(environment, _TORCHRUN, "torchrun")
    rank, local_rank, world_size, local_world_size = (int(environment[name]) for name in _TORCHRUN[:4])
    job = environment.get("TORCHELASTIC_RUN_ID", "none")
    return Place(
        launcher="torchrun",
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=local_world_size,
        address=(environment["MASTER_ADDR"], environment["MASTER_PORT"]),
        # Without an id of its own, torchrun itself is what stays.
        job=f"{socket.gethostname()} {os.getppid()}" if job == "none" else job,
        restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)),
    )


def _place_of_srun(environment: Mapping[str, str]) -> Place:
    _require_variables(environment, _SLURM, "srun")
    tasks = environment["SLURM_STEP_TASKS_PER_NODE"]
    same = re.fullmatch(r"(\d+)(\(x\d+\))?", tasks)
    if not same:
        raise ValueError(
            f"SLURM_STEP_TASKS_PER_NODE is {tasks}; there must be as many tasks on every node: set --ntasks-per-node."
        )
    # "node[03-05,7],other" begins with node03.
    first = re.sub(r"^([^,\[]+)\[(\w+)[^\]]*\]([^,]*).*", r"\1\2\3", environment["SLURM_STEP_NODELIST"]).partition(",")[
        0
    ]
    job = environment["SLURM_JOB_ID"]
    return Place(
        launcher="srun",
        rank=int(environment["SLURM_PROCID"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        world_size=int(environment["SLURM_STEP_NUM_TASKS"]),
        local_world_size=int(same[1]),
        # Any port will do that all agree on and other jobs of the node hardly have.
        address=(
            environment.get("MASTER_ADDR") or first,
            environment.get("MASTER_PORT") or str(15000 + int(job) % 15000),
        ),
        job=f"slurm {job}",
        restarts=int(environment.get("SLURM_RESTART_COUNT") or 0),
    )


def _require_variables(environment: Mapping[str, str], names: tuple[str, ...], launcher: str) -> None:
    if missing := [name for name in names if not environment.get(name)]:
        raise ValueError(
            f"The environment looks like {launcher}'s, but lacks {', '.join(missing)}: start the training with "
            f"{launcher}, or unset {'LOCAL_RANK' if launcher == 'torchrun' else 'SLURM_STEP_NUM_TASKS'}."
        )


def require_no_launch_arguments(args: argparse.Namespace, place: Place) -> None:
    """Makes sure that the command line starts no processes itself.

    Raises:
        ValueError: it does.
    """
    defaults = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    given = [f"--{name.replace('_', '-')}" for name, default in defaults.items() if getattr(args, name) != default]
    if given:
        raise ValueError(
            f"{', '.join(given)}: {place.launcher} has started {place.world_size} processes and says how they meet. "
            f"Leave {'it' if len(given) == 1 else 'them'} out, or start without {place.launcher}."
        )


@contextmanager
def joined(place: Place) -> Iterator[None]:
    """Makes the process one of its group, as Detectron2's launcher does for those that it starts.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        count = torch.cuda.device_count()
        # srun may show each task a GPU of its own.
        is_own = place.launcher == "srun" and count == 1
        if count < place.local_world_size and not is_own:
            raise ValueError(
                f"{place.launcher} has started {place.local_world_size} processes on this machine, which has {count} "
                f"GPUs: start {count}."
            )
        torch.cuda.set_device(0 if is_own else place.local_rank)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place.address
    store, _, _ = next(rendezvous("env://", place.rank, place.world_size, timeout=DEFAULT_TIMEOUT))
    dist.init_process_group(
        "NCCL" if has_gpu else "GLOO",
        # torchrun's store outlives a restart, and with it the addresses of processes that have ended.
        store=dist.PrefixStore(f"attempt_{place.restarts}", store),
        world_size=place.world_size,
        rank=place.rank,
        timeout=DEFAULT_TIMEOUT,
    )
    comm.create_local_process_group(place.local_world_size)
    # The other processes may have failed on their way here.
    comm.synchronize()
    try:
        yield
    except SystemExit:
        # A signal, which stops all processes after the same iteration.
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def continues_after_restart(folder: str | Path) -> bool:
    """Whether the job was restarted, and the training in the folder is its own; all processes call this together.

    A job that failed before its training began would resume an earlier one.
    """
    place = find_place(os.environ)
    if place is None or not place.restarts:
        return False
    file = Path(folder) / _JOB_FILE
    return comm.all_gather(file.is_file() and file.read_text(encoding="utf-8") == place.job)[0]


def note_job(folder: str | Path) -> None:
    """Writes down whose training the folder has, for :func:`continues_after_restart`; for the main process."""
    if place := find_place(os.environ):
        with atomic_write(Path(folder) / _JOB_FILE) as temporary:
            temporary.write_text(place.job, encoding="utf-8")
    else:
        (Path(folder) / _JOB_FILE).unlink(missing_ok=True)
