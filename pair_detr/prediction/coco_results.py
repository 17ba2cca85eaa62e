"""Detections in any images as a COCO file, which pycocotools and annotation tools read."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from pycocotools import mask as mask_util

from pair_detr.prediction.results import DetectedImage, ResultsWriter
from pair_detr.utils.outputs import write_marked_json

logger = logging.getLogger(__name__)


class CocoResults(ResultsWriter):
    """results.json has "info", "images", "categories" and, with a "score" each, "annotations"."""

    output = "results.json"

    def __init__(self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> None:
        """Without ``category_ids`` those of the file are 1, 2, ..., which is logged."""
        super().__init__(folder, class_names)
        if category_ids is None:
            logger.info(
                "Category ids in %s are 1 to %d: neither the checkpoint nor a dataset of the config says which ids "
                "the classes have in their data.",
                self.output,
                len(class_names),
            )
        self._ids = list(range(1, len(class_names) + 1) if category_ids is None else category_ids)
        self._categories = [{"id": i, "name": name} for i, name in zip(self._ids, class_names, strict=True)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, image: DetectedImage) -> None:
        """See :class:`ResultsWriter`; masks are kept in run lengths."""
        image_id = len(self._images) + 1
        height, width = image.instances.image_size
        entry = {"id": image_id, "file_name": image.source, "width": width, "height": height}
        self._images.append(entry if image.frame is None else {**entry, "frame": image.frame})
        found = instances_to_coco_json(image.instances, image_id)
        for annotation, track in zip(found, image.track_ids, strict=True):
            annotation["category_id"] = self._ids[annotation["category_id"]]
            if track is not None:
                annotation["track_id"] = track
            mask = annotation.get("segmentation")
            area = annotation["bbox"][2] * annotation["bbox"][3] if mask is None else int(mask_util.area(mask))
            self._annotations.append({"id": len(self._annotations) + 1, "area": area, "iscrowd": 0, **annotation})

    def _finish(self) -> None:
        content = {"images": self._images, "categories": self._categories, "annotations": self._annotations}
        write_marked_json(content, self._folder / self.output)
