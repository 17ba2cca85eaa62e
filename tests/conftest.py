"""Fixtures and markers that all tests share."""

import logging
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.utils import logger as detectron2_logger
from detectron2_helpers import speed_up_configs
from process_helpers import launching_by

PROJECT_ROOT = Path(__file__).resolve().parents[1]
# Runs and tools set these up, and keep what they say from pytest's caplog.
_LOGGERS = {
    logger: (logger.handlers[:], logger.propagate, logger.level)
    for logger in map(logging.getLogger, ("pair_detr", "detectron2", "fvcore"))
}
# A training that fails on its way out leaves its handlers; pools of processes may then hang when they are ended.
_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def pytest_configure(config: pytest.Config) -> None:
    speed_up_configs()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The workers share the cores; more threads than cores make all of them slower.
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without_gpu = pytest.mark.skip(reason="needs a CUDA device")
    too_slow = pytest.mark.skip(reason="slow, and PAIR_DETR_SKIP_SLOW=1")
    skip_slow = os.environ.get("PAIR_DETR_SKIP_SLOW") == "1"
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(without_gpu)
        if "slow" in item.keywords and skip_slow:
            item.add_marker(too_slow)
    # A long one at the end would run while the other processes have nothing left to do.
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _untouched_loggers_and_signals() -> None:
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)
    for logger, (handlers, propagate, level) in _LOGGERS.items():
        logger.handlers, logger.propagate = handlers[:], propagate
        logger.setLevel(level)
    # What Detectron2 does once a process: set a logger up, and say what log_first_n is to say.
    detectron2_logger.setup_logger.cache_clear()
    detectron2_logger._LOG_COUNTER.clear()


@pytest.fixture
def catalogs() -> Iterator[None]:
    """Detectron2's catalogs forget what the test registers."""
    with restored_catalogs():
        yield


@pytest.fixture(scope="session")
def warm_start() -> Iterator[None]:
    """Processes started as "forkserver", also those of Detectron2's launcher, are forks of one with PyTorch.

    A new interpreter imports it for seconds.
    """
    multiprocessing.set_forkserver_preload(
        ["pair_detr.engine", "pytest", "torch.utils.cpp_extension", "torch.utils.tensorboard"]
    )
    # After nohup, the tests ignore it, and so would all forks.
    of_hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # The package's data sets are registered on its import, for good.
            patch.delenv("DETECTRON2_DATASETS", raising=False)
            forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGHUP, of_hangup)
    with launching_by("forkserver"):
        yield


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout."""
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of datasets and weights that the repository does not hold; skips where it is absent."""
    folder = Path(os.environ.get("PAIR_DETR_SHARED", PROJECT_ROOT.parent / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}; PAIR_DETR_SHARED names the folder")
    return folder
