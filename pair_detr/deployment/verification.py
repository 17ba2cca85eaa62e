"""Whether an exported graph detects what its model detects, on images of other numbers and sizes."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pair_detr.deployment.graph import DetectionGraph
from pair_detr.runtime.description import ModelDescription
from pair_detr.runtime.sessions import open_session

logger = logging.getLogger(__name__)

# Batches, by the height and width of their images.
_BATCHES = (((96, 128),), ((160, 120), (96, 160), (160, 160)))
# Differences that are taken for rounding: of scores, of boxes as a share of the image, and for what share of the boxes.
# With few bits other queries are selected in images that show nothing, as these do.
_TOLERANCES = {"fp32": (1e-3, 1e-3, 1.0), "fp16": (0.02, 0.02, 0.5), "bf16": (0.1, 0.05, 0.5)}
# Detections of empty boxes are left out, and some are nearly empty: this share of all has to be there.
_KEPT = 0.9
# Scores are taken for equal up to so many times the largest difference of any.
_TIE = 2


class ExportError(ValueError):
    """An exported graph detects something else than its model."""


@dataclass
class Difference:
    """The largest differences of two outputs.

    Attributes:
        score: of scores, rank by rank.
        box: of the box of a detection and the nearest one of its label and score, in pixels; infinite without any.
    """

    score: float
    box: float


def verify(
    graph: DetectionGraph, folder: Path, description: ModelDescription, channels: int, texts: Tensor | None
) -> None:
    """Compares an exported graph with one of the model in fp32, on random images.

    Raises:
        ExportError: they differ by more than rounding explains.
    """
    session = open_session(folder, description, "torch" if description.format == "torch_export" else None, 0)
    generator = torch.Generator().manual_seed(0)
    score_tolerance, box_tolerance, share = _TOLERANCES[description.precision]
    worst = Difference(0, 0)
    for image_sizes in _BATCHES:
        sizes = torch.tensor(image_sizes)
        padded = torch.tensor(description.padded_size(*sizes.amax(0).tolist()))
        sizes = torch.minimum(sizes, padded)
        shape = len(sizes), channels, *padded.tolist()
        inputs = {"images": torch.randint(256, shape, dtype=torch.uint8, generator=generator), "sizes": sizes}
        if texts is not None:
            inputs["texts"] = texts
        with torch.no_grad():
            expected = [x.numpy() for x in graph(**inputs)]
        found = session.run({name: x.numpy() for name, x in inputs.items()})
        difference = compare(expected, found, share)
        worst = Difference(max(worst.score, difference.score), max(worst.box, difference.box))
        if not (difference.score <= score_tolerance and difference.box <= box_tolerance * max(padded.tolist())):
            raise ExportError(
                f"The exported graph differs from the model by {difference.score:.2g} in scores and "
                f"{difference.box:.2g} pixels, with {len(sizes)} images. Export with --precision fp32 or to another "
                "--format; if that does not help, please report it with the config."
            )
    logger.info(
        "%s agrees with the model: scores to %.1g, boxes to %.1g pixels, with 1 and %d images.",
        session.package,
        worst.score,
        worst.box,
        len(_BATCHES[-1]),
    )


def compare(expected: list[np.ndarray], found: list[np.ndarray], share: float = 1.0) -> Difference:
    """How the boxes, scores and labels of one batch differ, whatever the order of detections of the same score.

    Args:
        expected: boxes (B, K, 4), scores (B, K), labels (B, K), and what else there is.
        found: likewise.
        share: of the boxes, of which the largest difference is wanted; the others differ more, or are not found.
    """
    boxes, scores, labels = expected[:3]
    if ((found[2] >= 0).sum(1) < share * _KEPT * (labels >= 0).sum(1)).any():
        return Difference(np.inf, np.inf)
    score = float(np.abs(scores - found[1]).max(initial=0))
    # The counterparts of a detection have its label and a score that may be its own.
    tie = _TIE * score + np.finfo(np.float32).eps
    alike = (labels[:, :, None] == found[2][:, None]) & (np.abs(scores[:, :, None] - found[1][:, None]) <= tie)
    distance = np.where(alike, np.abs(boxes[:, :, None] - found[0][:, None]).max(-1), np.inf).min(-1)
    # Of detections as good as the last one, others may be among the best K.
    counted = (labels >= 0) & (scores > scores[:, -1:] + tie)
    return Difference(score, float(np.quantile(distance[counted], share, method="higher")) if counted.any() else 0.0)
