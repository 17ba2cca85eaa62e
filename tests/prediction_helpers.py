"""Detections and videos that tests of predictions share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from pair_detr.prediction.media import VideoFile


def make_instances(
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
    scores: Sequence[float] | None = None,
) -> Instances:
    """Instances on the CPU; scores fall from 0.9 to 0.5 if not given."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.scores = torch.linspace(0.9, 0.5, len(boxes)) if scores is None else torch.tensor(scores)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def write_video(file: Path, frames: int, fps: float = 10) -> None:
    """A video of 64 x 48 pixels, each frame in another color."""
    video = VideoFile(file, fps)
    for i in range(frames):
        video.write(np.full((48, 64, 3), (i * 20, 0, 255 - i * 20), dtype=np.uint8))
    video.close()
