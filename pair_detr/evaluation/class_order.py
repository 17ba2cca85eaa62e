"""Evaluation on data whose classes have another order than the model's, or are only some of these."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances


class ReorderedClassesEvaluator(DatasetEvaluator):
    """Gives an evaluator detections with the class indices of its data in place of the model's.

    Detections of other classes are left out, such as those of stuff where things are evaluated.

    Args:
        evaluator: of the data.
        class_indices: index in the model of each class of the data.
    """

    def __init__(self, evaluator: DatasetEvaluator, class_indices: Sequence[int]) -> None:
        self.evaluator = evaluator
        self._class_indices = torch.tensor(class_indices)

    def reset(self) -> None:
        self.evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        outputs = [{**output, "instances": self._reordered(output["instances"])} for output in outputs]
        self.evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        return self.evaluator.evaluate()

    def _reordered(self, detections: Instances) -> Instances:
        # One row for each detection, one column for each class of the data.
        matches = detections.pred_classes[:, None] == self._class_indices.to(detections.pred_classes.device)
        kept = detections[matches.any(1)]
        kept.pred_classes = matches[matches.any(1)].int().argmax(1)
        return kept
