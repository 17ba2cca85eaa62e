"""Writers for programs that keep track of experiments: Weights & Biases, and MLflow.

Where they write to, and as whom, they are told by their own environment variables and settings, such as WANDB_MODE
offline and MLFLOW_TRACKING_URI.
"""

import importlib
import math
import re
from abc import abstractmethod
from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from pair_detr.config.validation import flatten

# Detectron2's window of the medians in its log.
_WINDOW = 20
_NOT_IN_MLFLOW_NAMES = re.compile(r"[^\w\-. /]")


def build_trackers(cfg: CfgNode) -> list[EventWriter]:
    """The writers that TRACKERS names.

    Raises:
        ImportError: the package of one is not installed.
    """
    return [_TRACKERS[name](cfg) for name in cfg.TRACKERS]


class _Tracker(EventWriter):
    package: str

    def __init__(self, cfg: CfgNode) -> None:
        try:
            self._module = importlib.import_module(self.package)
        except ImportError as error:
            raise ImportError(
                f"TRACKERS names {self.package}, which cannot be imported ({error}): install it with 'pip install "
                f"{self.package}', or set TRACKERS to ()."
            ) from error
        self._cfg = cfg
        self._name = Path(cfg.OUTPUT_DIR).resolve().name
        self._run: Any = None
        self._last_write = -1

    def write(self) -> None:
        """Hands over what is new, iteration by iteration; what is not finite is left out."""
        by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last_write and math.isfinite(value):
                by_iteration[iteration][name] = value
        if by_iteration and self._run is None:
            self._run = self._start()
        for iteration in sorted(by_iteration):
            self._log(by_iteration[iteration], iteration)
            self._last_write = iteration

    def close(self) -> None:
        """Ends the run, if there is one."""
        if self._run is not None:
            self._end()

    @abstractmethod
    def _start(self) -> Any: ...

    @abstractmethod
    def _log(self, values: dict[str, float], iteration: int) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...


class _WeightsAndBiases(_Tracker):
    package = "wandb"

    def _start(self) -> Any:
        return self._module.init(dir=self._cfg.OUTPUT_DIR, name=self._name, config=flatten(self._cfg))

    def _log(self, values: dict[str, float], iteration: int) -> None:
        self._run.log(values, step=iteration)

    def _end(self) -> None:
        self._run.finish()


class _MLflow(_Tracker):
    package = "mlflow"

    def _start(self) -> Any:
        run = self._module.start_run(run_name=self._name)
        # There are more keys than MLflow takes parameters at once.
        self._module.log_text(self._cfg.dump(), "config.yaml")
        return run

    def _log(self, values: dict[str, float], iteration: int) -> None:
        named = {_NOT_IN_MLFLOW_NAMES.sub("_", name): value for name, value in values.items()}
        self._module.log_metrics(named, step=iteration)

    def _end(self) -> None:
        self._module.end_run()


_TRACKERS = {tracker.package: tracker for tracker in (_WeightsAndBiases, _MLflow)}
