"""Detections as supervision keeps them, and as its JSONSink writes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import Instances

from pair_detr.drawing.supervision import require_supervision
from pair_detr.prediction.results import NO_TRACK, DetectedImage, ResultsWriter
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.outputs import record_outputs


def to_supervision(instances: Instances) -> Any:
    """``supervision.Detections`` of instances on any device, with masks and tracks if they have them."""
    detections = require_supervision().Detections.from_detectron2({"instances": instances})
    if instances.has("track_ids"):
        detections.tracker_id = instances.track_ids.cpu().numpy()
    return detections


class SupervisionResults(ResultsWriter):
    """detections.json is a list with a dict for each detection, with the keys of ``supervision.JSONSink``.

    They are x_min, y_min, x_max, y_max, class_id, confidence and tracker_id; and class_name, file and frame.
    """

    output = "detections.json"

    def __init__(self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> None:
        super().__init__(folder, class_names)
        self._sink = require_supervision().JSONSink()

    def add(self, image: DetectedImage) -> None:
        """See :class:`ResultsWriter`."""
        detections = to_supervision(image.instances)
        # The sink has boxes alone, but would keep what it gets.
        detections.mask = None
        names = [self._class_names[label] for label in image.instances.pred_classes.tolist()]
        self._sink.append(detections, {"class_name": names, "file": image.source, "frame": image.frame})

    def _finish(self) -> None:
        file = self._folder / self.output
        rows = [{**row, "tracker_id": ""} if row["tracker_id"] == NO_TRACK else row for row in self._sink.data]
        with atomic_write(file) as temporary:
            self._sink.file_name = str(temporary)
            self._sink.open()
            self._sink.data = rows
            self._sink.write_and_close()
        record_outputs([file])
