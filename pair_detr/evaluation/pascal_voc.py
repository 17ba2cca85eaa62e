"""Pascal VOC's AP, for datasets of its own layout and for all others."""

import logging
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_ap
from detectron2.structures import BoxMode
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import box_iou

from pair_detr.data.catalog import class_names_of, load_dataset
from pair_detr.data.datasets.pascal_voc import load_voc
from pair_detr.data.record_cache import RecordCache
from pair_detr.evaluation.coco_ground_truth import are_annotated
from pair_detr.utils.messages import counted, join_some

logger = logging.getLogger(__name__)

_annotations = RecordCache()
_IOU_THRESHOLDS = np.arange(50, 100, 5) / 100


class VOCEvaluator(DatasetEvaluator):
    """AP as Detectron2's ``PascalVOCDetectionEvaluator`` defines it, from the boxes of a registered dataset.

    Detectron2's reads the XML files by itself and ends at those without ``pose``, ``truncated`` or ``difficult``, at
    coordinates with a fraction, and at lists of two columns. It also counts a class without objects as AP 0, or as NaN
    once the class is predicted; here such a class is left out of the mean.

    Objects marked ``difficult``, and crowds, need not be found, and finding them is no error. For images to predict on
    alone (without "annotations") there are no results.

    Args:
        name: registered dataset. If others than this package have registered it, and its metadata have ``dirname``
            and ``split``, :func:`load_voc` reads the annotations, as Detectron2's do not say which objects are
            difficult. ``year``, 2007 or 2012 (the default), is the way in which AP is computed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._predictions: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def reset(self) -> None:
        self._predictions = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            boxes = instances.pred_boxes.tensor.double()
            self._predictions[image["image_id"]] = boxes, instances.scores, instances.pred_classes

    def evaluate(self) -> dict[str, dict[str, float]]:
        """
        Returns:
            ``{"voc": {"AP": ..., "AP50": ..., "AP75": ...}}`` in percent; empty in other processes than the first.

        Raises:
            ValueError: see :meth:`require_objects`.
        """
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        predictions = {image_id: p for part in gathered for image_id, p in part.items()}
        num_classes = len(class_names_of(self._name))
        year = MetadataCatalog.get(self._name).get("year", 2012)
        records = self.require_objects()
        if not are_annotated(records):
            return {}
        objects = {record["image_id"]: record.get("annotations", []) for record in records}
        if unknown := [repr(image_id) for image_id in predictions if image_id not in objects]:
            raise ValueError(
                f'Test set "{self._name}": there are predictions for {counted(len(unknown), "image")} which its '
                f"ground truth has not: {join_some(unknown, 3)}. An image must have the same image_id whenever the "
                "dataset is loaded."
            )
        aps = [_class_ap(objects, predictions, number, use_07_metric=year == 2007) for number in range(num_classes)]
        mean = 100 * np.mean([ap for ap in aps if ap is not None], axis=0)
        results = {"AP": float(mean.mean()), "AP50": float(mean[0]), "AP75": float(mean[5])}
        logger.info("Pascal VOC %d's AP of %s: %s", year, self._name, results)
        return {"voc": results}

    def require_objects(self) -> list[dict[str, Any]]:
        """The images with their annotations, of which AP is a number.

        Raises:
            ValueError: there is no object that must be found, though there are annotations.
            KeyError, OSError: the dataset cannot be loaded.
        """
        records = self._records()
        annotations = [a for record in records for a in record.get("annotations", ())]
        if are_annotated(records) and not any(map(_must_be_found, annotations)):
            raise ValueError(
                f'Test set "{self._name}": none of its {counted(len(records), "image")} has an object that Pascal '
                "VOC's AP asks for; difficult ones and crowds are none. Correct the annotations, set TEST.EVALUATOR "
                "coco, for which difficult objects count, or take it out of DATASETS.TEST."
            )
        return records

    def _records(self) -> list[dict[str, Any]]:
        name, metadata = self._name, MetadataCatalog.get(self._name).as_dict()
        has_folder = "dirname" in metadata and "split" in metadata
        if has_folder and not DatasetCatalog[name].__module__.startswith("pair_detr."):
            classes = class_names_of(name)
            return _annotations.read(name, lambda: load_voc(metadata["dirname"], metadata["split"], classes))
        return load_dataset(name)


def _must_be_found(annotation: dict[str, Any]) -> bool:
    return not (annotation.get("difficult") or annotation.get("iscrowd"))


def _class_ap(
    objects: dict[str, list[dict[str, Any]]],
    predictions: dict[str, tuple[Tensor, Tensor, Tensor]],
    class_id: int,
    use_07_metric: bool,
) -> np.ndarray | None:
    """AP of one class at each of the thresholds, from 0 to 1; None if it has no object that must be found."""
    required: list[bool] = []
    scores, overlaps, targets = [], [], []
    for image_id, annotations in objects.items():
        annotations = [a for a in annotations if a["category_id"] == class_id]
        if image_id in predictions:
            boxes, image_scores, classes = predictions[image_id]
            chosen = classes == class_id
            # VOC's areas include the last pixel, which 0-based corners have beyond them: the IoU is the same.
            corners = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
            truth = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
            if len(annotations):
                overlap, target = box_iou(boxes[chosen], truth).max(dim=1)
            else:
                overlap = target = torch.zeros(int(chosen.sum()))
            scores.append(image_scores[chosen].double())
            overlaps.append(overlap.double())
            targets.append(target.long() + len(required))
        required.extend(map(_must_be_found, annotations))
    required = np.array(required, dtype=bool)
    if not required.any():
        return None
    if not scores:
        return np.zeros(len(_IOU_THRESHOLDS))
    order = torch.cat(scores).argsort(descending=True, stable=True)
    overlap, target = torch.cat(overlaps)[order].numpy(), torch.cat(targets)[order].numpy()
    return np.array([_ap(overlap > t, target, required, use_07_metric) for t in _IOU_THRESHOLDS])


def _ap(hit: np.ndarray, target: np.ndarray, required: np.ndarray, use_07_metric: bool) -> float:
    """AP of predictions in the order of their scores.

    Args:
        hit: (N,) whether a prediction overlaps an object.
        target: (N,) that object; any number where there is none.
        required: (M,) whether an object must be found.
    """
    found = np.flatnonzero(hit)
    correct, ignored = np.zeros(len(hit), dtype=bool), np.zeros(len(hit), dtype=bool)
    ignored[found] = ~required[target[found]]
    found = found[~ignored[found]]
    # Only the first prediction of an object counts, the others are wrong.
    correct[found[np.unique(target[found], return_index=True)[1]]] = True
    true_positives = np.cumsum(correct)
    positives = np.cumsum(~ignored)
    recall = true_positives / required.sum()
    precision = true_positives / np.maximum(positives, 1)
    return float(voc_ap(recall, precision, use_07_metric))
