"""Metrics of a training, written to files that are named when the disk is full."""

import json
import logging
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import IO, Any

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from pair_detr.utils.disk_space import explain_full_disk

# A loss in a line of Detectron2's.
_LOSS = re.compile(r"\b(?P<name>\w*loss\w*): \S+ *")
# In the lines of progress, of the last layer; the files have those of all layers and branches.
_SHOWN_LOSSES = frozenset(
    {"total_loss", *(f"loss_{name}" for name in ("class", "box", "giou", "mask", "dice", "image", "pair"))}
)


def build_writers(folder: str | Path, max_iter: int, epochs: float) -> list[EventWriter]:
    """Detectron2's default writers: the log, ``metrics.json`` and the curves of TensorBoard, in ``folder``.

    Args:
        folder: where the files go; it is made if need be.
        max_iter: iterations of the training.
        epochs: the same in epochs.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_Progress(max_iter, epochs), _Metrics(Path(folder)), _Curves(Path(folder))]


class _Progress(CommonMetricPrinter):
    """Detectron2's line of progress, with the epoch in front, and of the losses those that people follow."""

    def __init__(self, max_iter: int, epochs: float) -> None:
        super().__init__(max_iter)
        self.logger = _Readable(self.logger, {"epochs": epochs})


class _Readable(logging.LoggerAdapter):
    def process(self, msg: str, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        latest = get_event_storage().latest().get("epoch")
        epoch = "" if latest is None else f" epoch: {latest[0]:.2f}/{self.extra['epochs']:.2f} "
        return epoch + _LOSS.sub(lambda match: match[0] if match["name"] in _SHOWN_LOSSES else "", msg), kwargs


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
        self._file_handle = _StrictLines(self._file_handle)


class _StrictLines:
    """A file of JSON lines, whose NaN and infinity - which JSON lacks - are null."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> None:
        row = json.loads(line, parse_constant=lambda _: None)
        self._file.write(json.dumps(row, sort_keys=True, allow_nan=False) + "\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Curves(_NamesItsFile, TensorboardXWriter):
    def __init__(self, folder: Path) -> None:
        # The rest of its name is tensorboard's.
        self.path = folder / "events.out.tfevents"
        super().__init__(str(folder))
