"""Metrics of a training, written to files that are named when the disk is full."""

from pathlib import Path

from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

from pair_detr.utils.disk_space import explain_full_disk


def build_writers(folder: str | Path, max_iter: int) -> list[EventWriter]:
    """Detectron2's default writers: the log, ``metrics.json`` and the curves of tensorboard, in ``folder``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [CommonMetricPrinter(max_iter), _Metrics(Path(folder)), _Curves(Path(folder))]


class _NamesItsFile(EventWriter):
    """Comes before a writer of Detectron2's among the bases of a class."""

    path: Path

    def write(self) -> None:
        with explain_full_disk(self.path):
            super().write()

    def close(self) -> None:
        with explain_full_disk(self.path):
            super().close()


class _Metrics(_NamesItsFile, JSONWriter):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.json"
        super().__init__(str(self.path))


class _Curves(_NamesItsFile, TensorboardXWriter):
    def __init__(self, folder: Path) -> None:
        # The rest of its name is tensorboard's.
        self.path = folder / "events.out.tfevents"
        super().__init__(str(folder))
