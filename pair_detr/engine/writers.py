"""Metrics of a training, written to files that are named when the disk is full."""

from pathlib import Path
from typing import Any

from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

from pair_detr.utils.disk_space import explain_full_disk


def build_writers(folder: str | Path, max_iter: int) -> list[EventWriter]:
    """Detectron2's default writers: the log, ``metrics.json`` and the curves of tensorboard, in ``folder``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [CommonMetricPrinter(max_iter), _Metrics(Path(folder, "metrics.json")), _Curves(Path(folder))]


class _Metrics(JSONWriter):
    def __init__(self, path: Path, **kwargs: Any) -> None:
        super().__init__(str(path), **kwargs)
        self._path = path

    def write(self) -> None:
        with explain_full_disk(self._path):
            super().write()

    def close(self) -> None:
        with explain_full_disk(self._path):
            super().close()


class _Curves(TensorboardXWriter):
    def __init__(self, folder: Path, **kwargs: Any) -> None:
        super().__init__(str(folder), **kwargs)
        # The rest of its name is tensorboard's.
        self._path = folder / "events.out.tfevents"

    def write(self) -> None:
        with explain_full_disk(self._path):
            super().write()

    def close(self) -> None:
        with explain_full_disk(self._path):
            super().close()
