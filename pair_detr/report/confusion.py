"""Which class is taken for which, by supervision's confusion matrix."""

from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from pair_detr.drawing.supervision import require_supervision
from pair_detr.report.outcomes import IOU, Outcomes, ids_by_image


def confusion_matrix(evaluation: COCOeval, outcomes: Outcomes, num_classes: int, threshold: float) -> np.ndarray:
    """Matches detections with objects of any class by their boxes.

    Args:
        evaluation: that the outcomes are of.
        outcomes: what counts.
        num_classes: C.
        threshold: the least score of a detection that counts.

    Returns:
        (C + 1, C + 1) int64; rows are the classes of objects, columns those of detections. The last row counts
        detections of nothing, the last column objects that nothing detects.

    Raises:
        ImportError: supervision is not installed.
    """
    sv = require_supervision()
    names = [str(index) for index in range(num_classes)]
    total = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    # supervision leaves out a score of exactly the threshold, which counts here.
    kept = outcomes.scores >= threshold
    found = ids_by_image(outcomes.ids[kept], outcomes.images[kept])
    truth = ids_by_image(outcomes.object_ids, outcomes.object_images)
    for image in found.keys() | truth.keys():
        predictions = _detections(evaluation.cocoDt.loadAnns(found.get(image, [])), "score")
        targets = _detections(evaluation.cocoGt.loadAnns(truth.get(image, [])))
        total += sv.ConfusionMatrix.from_detections([predictions], [targets], names, 0.0, IOU).matrix
    return total


def _detections(annotations: list[dict[str, Any]], score: str = "") -> Any:
    sv = require_supervision()
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = np.array([annotation["category_id"] - 1 for annotation in annotations], int)
    scores = np.array([annotation[score] for annotation in annotations], np.float32) if score else None
    return sv.Detections(xyxy=boxes, class_id=classes, confidence=scores)
