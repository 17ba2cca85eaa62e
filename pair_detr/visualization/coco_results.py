"""Detections in any images as a COCO file, which pycocotools and annotation tools read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools import mask as mask_util

from pair_detr.utils.outputs import write_marked_json


class CocoResults:
    """Collects detections. Its file has "info", "images", "categories" and, with a "score" each, "annotations"."""

    def __init__(self, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> None:
        """``category_ids`` are those of the file; default: 1, 2, ..."""
        ids = range(1, len(class_names) + 1) if category_ids is None else category_ids
        self._ids = list(ids)
        self._categories = [{"id": i, "name": name} for i, name in zip(self._ids, class_names, strict=True)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, file: str, instances: Instances, **details: Any) -> None:
        """Adds the detections of an image; ``details`` are written next to its name, as the number of a frame."""
        image_id = len(self._images) + 1
        height, width = instances.image_size
        self._images.append({"id": image_id, "file_name": file, "width": width, "height": height, **details})
        for entry in instances_to_coco_json(instances, image_id):
            entry["category_id"] = self._ids[entry["category_id"]]
            mask = entry.get("segmentation")
            area = entry["bbox"][2] * entry["bbox"][3] if mask is None else int(mask_util.area(mask))
            self._annotations.append({"id": len(self._annotations) + 1, "area": area, "iscrowd": 0, **entry})

    @property
    def num_images(self) -> int:
        """Images, frames included."""
        return len(self._images)

    @property
    def num_detections(self) -> int:
        """Detections in all of them."""
        return len(self._annotations)

    def write(self, file: Path) -> None:
        """Writes the file."""
        content = {"images": self._images, "categories": self._categories, "annotations": self._annotations}
        write_marked_json(content, file)
