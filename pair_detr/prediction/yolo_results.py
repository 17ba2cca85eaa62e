"""Detections in the layout of YOLO, as ultralytics' ``save_txt`` writes them with ``save_conf``."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from pair_detr.prediction.results import DetectedImage, ResultsWriter
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.outputs import record_outputs

LABELS = "labels"
CLASSES = "classes.txt"


class YoloResults(ResultsWriter):
    """labels/NAME.txt of each image, and classes.txt with a name in each line.

    A detection is a line: class, counted from 0, center and size as shares of the image's width and height, score, and
    track if there is one. That of a frame is labels/NAME_FRAME.txt. Images without detections have an empty file.
    """

    output = LABELS

    def __init__(self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> None:
        super().__init__(folder, class_names)
        self._written: set[Path] = set()

    @classmethod
    def files(cls, folder: Path, images: Sequence[str], videos: Sequence[str]) -> list[Path]:
        """See :class:`ResultsWriter`; of videos those that are there."""
        labels = folder / LABELS
        frames = {
            file
            for file in (labels.glob("*_*.txt") if videos else ())
            if file.stem.rpartition("_")[0] in videos and file.stem.rpartition("_")[2].isdecimal()
        }
        return [folder / CLASSES, *(labels / f"{name}.txt" for name in images), *sorted(frames)]

    def add(self, image: DetectedImage) -> None:
        """See :class:`ResultsWriter`."""
        found = image.instances
        height, width = found.image_size
        boxes = found.pred_boxes.tensor / found.pred_boxes.tensor.new_tensor([width, height, width, height])
        columns = found.pred_classes.tolist(), found.scores.tolist(), boxes.tolist(), image.track_ids
        lines = []
        for label, score, (x1, y1, x2, y2), track in zip(*columns, strict=True):
            numbers = [label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, score]
            lines.append(" ".join(f"{x:g}" for x in (numbers if track is None else [*numbers, track])) + "\n")
        file = self._free_file(image.name if image.frame is None else f"{image.name}_{image.frame}")
        with atomic_write(file) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        self._written.add(file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is written by now is the program's, whatever has ended it.
        record_outputs(self._written)
        super().__exit__(kind, error, traceback)

    def _finish(self) -> None:
        classes = self._folder / CLASSES
        with atomic_write(classes) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in self._class_names), encoding="utf-8")
        record_outputs([classes])

    def _free_file(self, name: str) -> Path:
        """That of the name; numbered where the frame of a video has the name of an image."""
        names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        return next(file for text in names if (file := self._folder / LABELS / f"{text}.txt") not in self._written)
