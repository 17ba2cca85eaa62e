"""What each detection and each object of an evaluation is: right or wrong, found or missed."""

from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from pair_detr.evaluation.coco_ground_truth import without_prints

IOU = 0.5
_ALL_AREAS = [0, 1e10]


@dataclass(frozen=True)
class Outcomes:
    """Detections matched with the objects of their class at an IoU of 0.5, the best ones first.

    Crowds, other objects that do not count, and detections of these are left out. As scores alone decide which
    detection comes first, those above a threshold match as if there were no others.

    Attributes:
        ids: (D,) of the detections, as pycocotools has them.
        scores: (D,).
        classes: (D,), counted from 0.
        images: (D,) ids of the images.
        correct: (D,) bool, whether it matches an object.
        object_ids: (G,) of the objects, as pycocotools has them.
        object_classes: (G,), counted from 0.
        object_images: (G,) ids of the images.
        object_scores: (G,) of the detection that matches the object; -1 for none.
    """

    ids: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    correct: np.ndarray
    object_ids: np.ndarray
    object_classes: np.ndarray
    object_images: np.ndarray
    object_scores: np.ndarray


def find_outcomes(evaluation: COCOeval) -> Outcomes:
    """Matches as pycocotools does for AP50.

    Args:
        evaluation: of boxes or masks, with categories 1, 2, ...
    """
    run = COCOeval(evaluation.cocoGt, evaluation.cocoDt, evaluation.params.iouType)
    run.params.imgIds, run.params.catIds = evaluation.params.imgIds, evaluation.params.catIds
    run.params.iouThrs = np.array([IOU])
    run.params.areaRng, run.params.areaRngLbl = [_ALL_AREAS], ["all"]
    run.params.maxDets = [evaluation.params.maxDets[-1]]
    without_prints(run.evaluate)
    detections: list[tuple[int, float, int, int, bool]] = []
    objects: list[tuple[int, int, int, float]] = []
    for entry in run.evalImgs:
        if entry is None:
            continue
        index, image = entry["category_id"] - 1, entry["image_id"]
        score_of = dict(zip(entry["dtIds"], entry["dtScores"], strict=True))
        columns = (entry["dtIds"], entry["dtScores"], entry["dtMatches"][0], entry["dtIgnore"][0])
        for own, score, match, ignored in zip(*columns, strict=True):
            if not ignored:
                detections.append((own, score, index, image, match > 0))
        for own, match, ignored in zip(entry["gtIds"], entry["gtMatches"][0], entry["gtIgnore"], strict=True):
            if not ignored:
                objects.append((own, index, image, score_of.get(int(match), -1.0)))
    return Outcomes(*_columns(detections, (int, float, int, int, bool)), *_columns(objects, (int, int, int, float)))


def ids_by_image(ids: np.ndarray, images: np.ndarray) -> dict[int, list[int]]:
    """Ids in the order given, by the images that they are in."""
    groups: dict[int, list[int]] = {}
    for own, image in zip(ids.tolist(), images.tolist(), strict=True):
        groups.setdefault(image, []).append(own)
    return groups


def _columns(rows: list[tuple], types: tuple[type, ...]) -> list[np.ndarray]:
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    return [np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True)]
