"""Evaluation on data whose classes have another order than the model's."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances


class ReorderedClassesEvaluator(DatasetEvaluator):
    """Gives an evaluator detections with the class indices of its data in place of the model's.

    Args:
        evaluator: of the data.
        to_dataset: index in the data of each class of the model, see :func:`pair_detr.data.class_matching.match_order`.
    """

    def __init__(self, evaluator: DatasetEvaluator, to_dataset: Sequence[int]) -> None:
        self._evaluator = evaluator
        self._to_dataset = torch.tensor(to_dataset)

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        outputs = [{**output, "instances": self._reordered(output["instances"])} for output in outputs]
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        return self._evaluator.evaluate()

    def _reordered(self, detections: Instances) -> Instances:
        fields = detections.get_fields()
        classes = self._to_dataset.to(detections.pred_classes.device)[detections.pred_classes]
        return Instances(detections.image_size, **{**fields, "pred_classes": classes})
