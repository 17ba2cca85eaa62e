"""How long the checks of 30,000 images with 210,000 boxes take: python tests/data/checks/benchmark_checks.py."""

import logging
import sys
import time

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from pair_detr.data.checks.report import inspect_dicts
from pair_detr.data.checks.trainable import validate

NUM_IMAGES, BOXES_PER_IMAGE, NUM_CLASSES = 30_000, 7, 80


def make_records() -> list[dict]:
    """Images at an address, which nobody looks for, of which some have a box without width and one beyond the edge."""
    boxes = np.random.default_rng(0).random((NUM_IMAGES, BOXES_PER_IMAGE, 4)) * [400, 300, 200, 150] + [0, 0, 1, 1]
    boxes[::3000, 0, 2] = 0
    boxes[::3000, 1] = [600, 100, 400, 20]
    return [
        {
            "file_name": f"detectron2://images/{number}.jpg",
            "image_id": number,
            "width": 640,
            "height": 480,
            "annotations": [
                {"category_id": i % NUM_CLASSES, "iscrowd": 0, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS}
                for i, box in enumerate(own)
            ],
        }
        for number, own in enumerate(boxes.tolist())
    ]


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    MetadataCatalog.get("benchmark").thing_classes = [f"class {number}" for number in range(NUM_CLASSES)]
    records = make_records()
    for function in (inspect_dicts, validate):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            function("benchmark", records)
            seconds.append(time.perf_counter() - start)
        sys.stdout.write(f"{function.__name__}: {min(seconds):.2f} s\n")


if __name__ == "__main__":
    main()
