"""AP and AR (in percent) by class and by size of the objects, as pycocotools has computed them."""

from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

SIZES = ("small", "medium", "large")
# Of COCO, in pixels.
SIZE_LIMITS = "small: below 32² pixels; medium: up to 96²; large: above"


@dataclass(frozen=True)
class Averages:
    """AP and AR of some objects, in percent; NaN if there are none.

    Attributes:
        objects: number of objects, without crowds.
        ap: mean over the IoUs 0.5, 0.55, ..., 0.95.
        ap50: at an IoU of 0.5.
        ap75: at an IoU of 0.75.
        ar: recall with as many detections as count, mean over the same IoUs.
    """

    objects: int
    ap: float
    ap50: float
    ap75: float
    ar: float


def averages(evaluation: COCOeval, index: int | None = None, size: str = "all") -> Averages:
    """The averages of a class (counted from 0; without it the mean of all) and a size."""
    params = evaluation.params
    area = params.areaRngLbl.index(size)
    classes = slice(None) if index is None else slice(index, index + 1)
    # (IoUs, recalls, classes, areas, limits to the detections) and without the recalls; -1 without objects.
    precision = evaluation.eval["precision"][:, :, classes, area, -1]
    recall = evaluation.eval["recall"][:, classes, area, -1]
    of_iou = [precision[np.isclose(params.iouThrs, iou)] for iou in (0.5, 0.75)]
    values = [_mean(x) for x in (precision, *of_iou, recall)]
    return Averages(_count(evaluation, index, params.areaRng[area]), *values)


def precision_recall(evaluation: COCOeval, index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Recall, and precision at an IoU of 0.5, (101,) each: what AP50 is the mean of. NaN without objects."""
    first = int(np.flatnonzero(np.isclose(evaluation.params.iouThrs, 0.5))[0])
    precision = evaluation.eval["precision"][first, :, :, 0, -1]
    precision = precision[:, (precision > -1).any(0)] if index is None else precision[:, index : index + 1]
    precision = np.where(precision > -1, precision, np.nan)
    mean = precision.mean(1) if precision.shape[1] else np.full(len(precision), np.nan)
    return evaluation.params.recThrs, mean


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return 100 * float(valid.mean()) if valid.size else float("nan")


def _count(evaluation: COCOeval, index: int | None, limits: tuple[float, float]) -> int:
    images = set(evaluation.params.imgIds)
    # Areas may be NumPy's, as boxes of datasets that are registered in Python may be.
    return sum(
        1
        for annotation in evaluation.cocoGt.dataset["annotations"]
        if annotation["image_id"] in images
        and index in (None, annotation["category_id"] - 1)
        and limits[0] <= annotation["area"] <= limits[1]
        and not annotation.get("iscrowd")
    )
