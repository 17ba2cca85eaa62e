"""Detections as a table, a line each."""

import csv
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from pair_detr.prediction.results import DetectedImage, ResultsWriter
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.outputs import record_outputs

COLUMNS = ("file", "frame", "class_id", "class", "score", "x1", "y1", "x2", "y2", "track_id")


class CsvResults(ResultsWriter):
    """results.csv has the columns :data:`COLUMNS`, with boxes in pixels; written line by line."""

    output = "results.csv"

    def __enter__(self) -> "CsvResults":
        self._stack = ExitStack()
        temporary = self._stack.enter_context(atomic_write(self._folder / self.output))
        file = self._stack.enter_context(temporary.open("w", newline="", encoding="utf-8"))
        self._table = csv.writer(file)
        self._table.writerow(COLUMNS)
        return self

    def add(self, image: DetectedImage) -> None:
        """See :class:`ResultsWriter`."""
        found = image.instances
        columns: tuple[list[Any], ...] = (
            found.pred_classes.tolist(),
            found.scores.tolist(),
            found.pred_boxes.tensor.tolist(),
            image.track_ids,
        )
        # None is an empty cell.
        for label, score, box, track in zip(*columns, strict=True):
            name, corners = self._class_names[label], [f"{x:.2f}" for x in box]
            self._table.writerow([image.source, image.frame, label, name, f"{score:.4f}", *corners, track])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
        super().__exit__(kind, error, traceback)

    def _finish(self) -> None:
        record_outputs([self._folder / self.output])
