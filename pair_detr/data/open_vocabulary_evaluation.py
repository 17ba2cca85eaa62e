"""COCO's AP, for base and novel classes apart as well."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table
from pycocotools.cocoeval import COCOeval


class OpenVocabularyCOCOEvaluator(COCOEvaluator):
    """Detectron2's evaluator, which also reports AP50 of base classes and of novel ones (in percent).

    Results have ``AP50-base`` and ``AP50-novel`` beside the usual ones, of which ``AP50`` is that of all classes. Each
    is the mean over the classes that have objects, and NaN if none has.

    Args:
        dataset_name: registered data set.
        novel_classes: names of its novel classes; all others are base classes.
        options: of Detectron2's evaluator.

    Raises:
        ValueError: a novel class is not a class of the data set.
    """

    def __init__(self, dataset_name: str, novel_classes: Collection[str], **options: Any) -> None:
        super().__init__(dataset_name, **options)
        if unknown := sorted(set(novel_classes) - set(self._metadata.thing_classes)):
            raise ValueError(
                f"{dataset_name}: the novel classes {', '.join(unknown)} are not among its classes. Correct "
                "NOVEL_CLASSES in DATASETS.REGISTER, or novel_classes in the metadata."
            )
        self._novel_classes = frozenset(novel_classes)

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None:
            return results | {"AP50-base": float("nan"), "AP50-novel": float("nan")}
        # (thresholds from IoU 0.5 on, recalls, classes, areas from "all" on, limits to the number of detections); -1
        # where there are no objects.
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]
        novel = np.array([name in self._novel_classes for name in self._metadata.thing_classes])
        split = {"AP50-base": _mean(precision[:, ~novel]), "AP50-novel": _mean(precision[:, novel])}
        self._logger.info("AP50 of %s, base and novel classes: \n%s", iou_type, create_small_table(split))
        return results | split


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if valid.size else float("nan")
