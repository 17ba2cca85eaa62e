"""Evaluations to make reports of."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from pair_detr.evaluation import COCOEvaluator

needs_tidecv = pytest.mark.skipif(find_spec("tidecv") is None, reason="needs tidecv: pip install --no-deps tidecv")

NAMES = ("cat", "dog", "<b>owl</b>")
# An object or a detection: image, class, box (xyxy); then the score of a detection, or whether an object is a crowd.
Item = tuple[int, int, tuple[float, float, float, float], float]

CAT, DOG = (10.0, 10, 40, 40), (60.0, 20, 100, 60)
# Image 1 has a cat and a dog, 2 a dog and a crowd of cats, 3 an owl, 4 nothing.
OBJECTS: list[Item] = [(1, 0, CAT, 0), (1, 1, DOG, 0), (2, 1, CAT, 0), (2, 0, DOG, 1), (3, 2, CAT, 0)]
DETECTIONS: list[Item] = [
    (1, 0, CAT, 0.9),  # correct
    (1, 0, (12, 10, 40, 40), 0.65),  # a duplicate
    (1, 0, DOG, 0.8),  # of the wrong class
    (2, 0, (62, 22, 90, 50), 0.7),  # in the crowd: does not count
    (2, 1, (10, 10, 40, 38), 0.5),  # correct
    (3, 1, (100, 70, 118, 88), 0.3),  # of nothing
]


def evaluate(
    objects: Sequence[Item] = OBJECTS,
    detections: Sequence[Item] = DETECTIONS,
    names: Sequence[str] = NAMES,
    images: int = 4,
    size: tuple[int, int] = (100, 120),
    folder: Path = Path(),
) -> COCOEvaluator:
    """An evaluator that has been given all detections; its images, of gray, are files where a folder is given."""
    records: list[dict[str, Any]] = [
        {
            "file_name": str(folder / f"{number}.png"),
            "image_id": number,
            "height": size[0],
            "width": size[1],
            "annotations": [
                {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": index, "iscrowd": int(crowd)}
                for image, index, box, crowd in objects
                if image == number
            ],
        }
        for number in range(1, images + 1)
    ]
    evaluator = COCOEvaluator("pets", records, names)
    for record in records:
        own = [item for item in detections if item[0] == record["image_id"]]
        found = Instances(size)
        found.pred_boxes = Boxes(torch.tensor([item[2] for item in own]).reshape(-1, 4))
        found.pred_classes = torch.tensor([item[1] for item in own], dtype=torch.long)
        found.scores = torch.tensor([item[3] for item in own], dtype=torch.float64)
        evaluator.process([record], [{"instances": found}])
        if folder != Path():
            Image.new("RGB", size[::-1], "gray").save(record["file_name"])
    evaluator.results = evaluator.evaluate()
    return evaluator


def random_items(seed: int, images: int = 30, classes: int = 3) -> tuple[list[Item], list[Item]]:
    """Objects, and detections of which many are near one; no two scores are the same."""
    rng = np.random.default_rng(seed)
    objects: list[Item] = []
    detections: list[Item] = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            corner, extent = rng.uniform(0, 60, 2), rng.uniform(8, 38, 2)
            box = tuple(np.concatenate([corner, corner + extent]))
            index = int(rng.integers(classes))
            objects.append((image, index, box, 0))
            if rng.random() < 0.8:
                label = index if rng.random() < 0.8 else int(rng.integers(classes))
                detections.append((image, label, tuple(np.add(box, rng.normal(0, 2, 4))), float(rng.random())))
        for _ in range(rng.integers(0, 3)):
            corner = rng.uniform(0, 60, 2)
            box = tuple(np.concatenate([corner, corner + rng.uniform(8, 38, 2)]))
            detections.append((image, int(rng.integers(classes)), box, float(rng.random())))
    return objects, detections
