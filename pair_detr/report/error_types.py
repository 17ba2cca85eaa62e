"""What AP is lost to, by tidecv (Bolya et al., "TIDE", ECCV 2020)."""

import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import matplotlib
from pycocotools.cocoeval import COCOeval

from pair_detr.evaluation.coco_ground_truth import without_prints

# tidecv's names, and what they mean at an IoU of 0.5.
ERROR_TYPES = {
    "Cls": ("wrong class", "a detection in the right place, of another class"),
    "Loc": ("wrong place", "a detection of the right class, with an IoU between 0.1 and 0.5"),
    "Both": ("wrong class and place", "a detection near an object of another class"),
    "Dupe": ("duplicate", "a detection of an object that one with a higher score finds"),
    "Bkg": ("background", "a detection where there is no object"),
    "Miss": ("missed", "an object that no detection comes near"),
}


def require_tidecv() -> ModuleType:
    """tidecv.

    Raises:
        ImportError: it, or what it draws with, is not installed; the message says how to get it.
    """
    try:
        import tidecv
    except ImportError as error:
        raise ImportError(
            f"The report says nothing of the types of errors, as tidecv cannot be imported ({error}). To install it: "
            "pip install --no-deps tidecv==1.0.1 && pip install appdirs pandas seaborn opencv-python-headless"
        ) from error
    return tidecv


def lost_precision(evaluation: COCOeval) -> dict[str, float]:
    """AP50, in points, that would be gained if all errors of a type were mended, by tidecv's names.

    Each type is mended alone: what they gain does not add up. There have to be objects and detections.

    Raises:
        ImportError: see :func:`require_tidecv`.
    """
    tidecv = require_tidecv()
    params = evaluation.params
    shape = "segmentation" if params.iouType == "segm" else "bbox"
    key, mode = ("mask", tidecv.TIDE.MASK) if params.iouType == "segm" else ("box", tidecv.TIDE.BOX)
    # Its limit would be one for the detections of all classes of an image.
    truth, found = (tidecv.Data(name, sys.maxsize) for name in ("objects", "detections"))
    images = list(params.imgIds)
    for image in images:
        truth.add_image(image, str(image))
    for annotation in evaluation.cocoGt.loadAnns(evaluation.cocoGt.getAnnIds(imgIds=images)):
        add = truth.add_ignore_region if annotation["iscrowd"] else truth.add_ground_truth
        add(annotation["image_id"], annotation["category_id"], **{key: annotation[shape]})
    for annotation in _counted(evaluation):
        place = (annotation["image_id"], annotation["category_id"], annotation["score"])
        found.add_detection(*place, **{key: annotation[shape]})
    # It sets the style of all later figures.
    with matplotlib.rc_context():
        tide = tidecv.TIDE()
        without_prints(lambda: tide.evaluate(truth, found, mode=mode))
    (errors,) = tide.get_main_errors().values()
    return {name: float(errors[name]) for name in ERROR_TYPES}


def _counted(evaluation: COCOeval) -> Iterator[dict[str, Any]]:
    """The best detections of each class and image, as many as count; of equal scores the first, as in pycocotools."""
    coco, params = evaluation.cocoDt, evaluation.params
    counts: Counter[tuple[int, int]] = Counter()
    for annotation in sorted(coco.loadAnns(coco.getAnnIds(imgIds=list(params.imgIds))), key=lambda x: -x["score"]):
        place = annotation["image_id"], annotation["category_id"]
        counts[place] += 1
        if counts[place] <= params.maxDets[-1]:
            yield annotation
