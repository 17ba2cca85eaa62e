"""COCO's average precision (AP) of the boxes and masks of any dataset."""

import itertools
import logging
from collections.abc import Collection, Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import COCOEvaluator as Detectron2COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOeval_opt, COCOevalMaxDets
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pair_detr.evaluation.coco_ground_truth import (
    are_annotated,
    as_coco,
    make_coco,
    number_images,
    require_known_images,
    without_prints,
)
from pair_detr.utils.atomic import atomic_write
from pair_detr.utils.json_files import write_json
from pair_detr.utils.messages import join_some

logger = logging.getLogger(__name__)

# COCO's limits to the detections per class and image, of which the last is that of AP.
_LIMITS = (1, 10, 100)


class COCOEvaluator(Detectron2COCOEvaluator):
    """Detectron2's evaluator, with a ground truth that is made in memory, of the records of a dataset.

    The results are those of pycocotools for the file that the records come from. Images may have any ids: they are
    numbered for pycocotools, and have their own ids in what is written. Without predictions AP is 0, where Detectron2's
    is NaN.

    With images to predict on alone (without "annotations") predictions are written, and there are no results.

    Attributes:
        evaluations: after :meth:`evaluate`, pycocotools' own object of each task, whose class ids are 1, 2, ...
    """

    def __init__(
        self,
        name: str,
        records: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        category_ids: Sequence[Hashable] | None = None,
        tasks: Sequence[str] = ("bbox",),
        output_dir: str | None = None,
        max_detections: int = _LIMITS[-1],
    ) -> None:
        """
        Args:
            name: of the dataset, for messages.
            records: images in Detectron2's standard format.
            class_names: of its classes.
            category_ids: of the classes in the file of predictions; default: 1, 2, ...
            tasks: "bbox" and "segm", whose masks the records then have.
            output_dir: for ``instances_predictions.pth`` and ``coco_instances_results.json``; None writes none.
            max_detections: the most detections per class and image that count, the best ones; COCO's limit is 100.

        Raises:
            ValueError: two images have the same id.
        """
        # Detectron2's constructor would read the ground truth from a file.
        self._name = name
        self._records = records
        self._class_names = list(class_names)
        self._category_ids = list(category_ids or range(1, len(class_names) + 1))
        self._numbers = number_images(name, records)
        self._max_detections = max_detections
        self._tasks = tuple(tasks)
        self._output_dir = output_dir
        self._do_evaluation = are_annotated(records)
        self._distributed = True
        self._logger = logger
        self._cpu_device = torch.device("cpu")
        self._predictions: list[dict[str, Any]] = []
        self.evaluations: dict[str, COCOeval] = {}

    @property
    def images(self) -> dict[int, dict[str, Any]]:
        """The records by the ids that images have in :attr:`evaluations`."""
        return {self._numbers[record["image_id"]]: record for record in self._records}

    @property
    def class_names(self) -> list[str]:
        """Those of the dataset."""
        return list(self._class_names)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As Detectron2's; raises a ValueError if an image, or a detection's class, is not one of the dataset."""
        require_known_images(self._name, inputs, self._numbers)
        for output in outputs:
            classes = output["instances"].pred_classes
            if len(classes) and int(classes.max()) >= len(self._class_names):
                raise ValueError(
                    f"A detection is of class {int(classes.max())}, but {self._name} has {len(self._class_names)} "
                    "classes, counted from 0. Evaluate the model on data with its own classes."
                )
        super().process(inputs, outputs)

    def evaluate(self, img_ids: Collection[Hashable] | None = None) -> dict[str, dict[str, float]]:
        """As Detectron2's, which would leave a part of a file where it is stopped; those here are whole or absent."""
        parts = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        predictions = list(itertools.chain(*parts))
        if not predictions:
            logger.warning('Test set "%s": there are no predictions.', self._name)
            return {}
        if self._output_dir:
            with atomic_write(Path(self._output_dir) / "instances_predictions.pth") as file:
                torch.save(predictions, file)
        self._results = {}
        self._eval_predictions(predictions, img_ids)
        return self._results

    @cached_property
    def _coco_api(self) -> COCO:
        # Not before it is needed, and in one process of several.
        return make_coco(self._records, self._numbers, self._class_names, masks="segm" in self._tasks)

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Collection[Hashable] | None = None) -> None:
        if self._output_dir:
            file = Path(self._output_dir) / "coco_instances_results.json"
            logger.info("Saving results to %s", file)
            detections = [x for image in predictions for x in image["instances"]]
            write_json([{**x, "category_id": self._category_ids[x["category_id"]]} for x in detections], file)
        if not self._do_evaluation:
            logger.warning(
                'Test set "%s" has no annotations, so that there is no AP. %s',
                self._name,
                f"The predictions are in {self._output_dir}." if self._output_dir else "",
            )
            return
        missing = self._numbers.keys() - {image["image_id"] for image in predictions}
        if missing and img_ids is None:
            logger.warning(
                'Test set "%s": %d of its %d images have no predictions, so that their objects are not found: %s.',
                self._name,
                len(missing),
                len(self._numbers),
                join_some(sorted(map(repr, missing)), 3),
            )
        found = [self._as_evaluated(x) for image in predictions for x in image["instances"]]
        for task in self._tasks:
            evaluation = self._compare(found, task, None if img_ids is None else [self._numbers[i] for i in img_ids])
            self.evaluations[task] = evaluation
            self._results[task] = self._derive_coco_results(evaluation, task, self._class_names)

    def _as_evaluated(self, detection: dict[str, Any]) -> dict[str, Any]:
        number = self._numbers[detection["image_id"]]
        return {**detection, "image_id": number, "category_id": detection["category_id"] + 1}

    def _compare(self, detections: list[dict[str, Any]], task: str, images: Sequence[int] | None) -> COCOeval:
        # pycocotools completes the dicts, and takes a box for the extent of its mask.
        left_out = "bbox" if task == "segm" else "segmentation"
        detections = [{key: value for key, value in x.items() if key != left_out} for x in detections]
        truth = self._coco_api
        # pycocotools does not load an empty list.
        empty = {**truth.dataset, "annotations": []}
        found = without_prints(lambda: truth.loadRes(detections)) if detections else as_coco(empty)
        # The fast implementation, which is there where Detectron2's extension is, knows COCO's own limit alone.
        kind = COCOeval_opt if self._max_detections == _LIMITS[-1] else COCOevalMaxDets
        evaluation = kind(truth, found, task)
        evaluation.params.maxDets = [min(limit, self._max_detections) for limit in _LIMITS[:-1]] + [
            self._max_detections
        ]
        if images is not None:
            evaluation.params.imgIds = images
        # They print fractions, beside which the results in percent would be confusing.
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            without_prints(step)
        # Without objects they are -1.
        recalls = [100 * float(x) if x >= 0 else float("nan") for x in evaluation.stats[6:9]]
        table = {f"AR{limit}": x for limit, x in zip(evaluation.params.maxDets, recalls, strict=True)}
        logger.info("Average recall of %s (percent):\n%s", task, create_small_table(table))
        return evaluation


class OpenVocabularyCOCOEvaluator(COCOEvaluator):
    """Also reports AP50 of base classes and of novel ones (in percent).

    Results have ``AP50-base`` and ``AP50-novel`` next to the usual ones, of which ``AP50`` is that of all classes. Each
    is the mean over the classes that have objects, and NaN if none has.
    """

    def __init__(self, *args: Any, novel_classes: Collection[str], **options: Any) -> None:
        """
        Args:
            args: see :class:`COCOEvaluator`, also for ``options``.
            novel_classes: names of the novel ones; all others are base classes.

        Raises:
            ValueError: a novel class is not a class of the dataset; further see :class:`COCOEvaluator`.
        """
        super().__init__(*args, **options)
        if unknown := sorted(set(novel_classes) - set(self._class_names)):
            raise ValueError(
                f"{self._name}: the novel classes {', '.join(unknown)} are not among its classes. Correct "
                "NOVEL_CLASSES in DATASETS.REGISTER, or novel_classes in the metadata."
            )
        self._is_novel = np.array([class_name in novel_classes for class_name in self._class_names])

    def _derive_coco_results(
        self, coco_eval: COCOeval, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        # (thresholds from IoU 0.5 on, recalls, classes, areas from "all" on, limits to the number of detections); -1
        # where there are no objects.
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]
        split = {
            "AP50-base": _mean(precision[:, ~self._is_novel]),
            "AP50-novel": _mean(precision[:, self._is_novel]),
        }
        logger.info("AP50 of %s, base and novel classes: \n%s", iou_type, create_small_table(split))
        return results | split


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if valid.size else float("nan")
