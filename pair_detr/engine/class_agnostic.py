"""Evaluation of boxes alone, whatever their class."""

import io
from contextlib import redirect_stdout

from detectron2.data import Metadata
from detectron2.evaluation import COCOEvaluator


def merge_classes(evaluator: COCOEvaluator) -> COCOEvaluator:
    """Makes one class, "object", of all classes of the ground truth; predictions are to be of class 0.

    Args:
        evaluator: not used for anything yet; changed in place.
    """
    coco = evaluator._coco_api
    for annotation in coco.dataset.get("annotations", ()):
        annotation["category_id"] = 1
    coco.dataset["categories"] = [{"id": 1, "name": "object"}]
    # pycocotools prints.
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    evaluator._metadata = Metadata(thing_classes=["object"], thing_dataset_id_to_contiguous_id={1: 0})
    return evaluator
