"""What is detected in an image, in the form of Detectron2's ``Instances``, without Detectron2."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass
class Instances:
    """N detections, best first; the fields have the names of those of Detectron2's ``Instances``.

    Attributes:
        image_size: height and width of the image in pixels.
        pred_boxes: (N, 4) fp32 xyxy in pixels of the image.
        scores: (N,) fp32.
        pred_classes: (N,) int64.
        pred_masks: (N, height, width) bool; None in models without masks.
    """

    image_size: tuple[int, int]
    pred_boxes: np.ndarray
    scores: np.ndarray
    pred_classes: np.ndarray
    pred_masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Any) -> "Instances":
        """Some of them: a slice, a mask or indices."""
        if isinstance(chosen, (int, np.integer)):
            chosen = [chosen]
        masks = None if self.pred_masks is None else self.pred_masks[chosen]
        columns = {name: getattr(self, name)[chosen] for name in ("pred_boxes", "scores", "pred_classes")}
        return replace(self, **columns, pred_masks=masks)

    def to_detectron2(self) -> Any:
        """Detectron2's ``Instances`` of the same; needs Detectron2."""
        import torch
        from detectron2 import structures

        fields = {"scores": torch.from_numpy(self.scores), "pred_classes": torch.from_numpy(self.pred_classes)}
        if self.pred_masks is not None:
            fields["pred_masks"] = torch.from_numpy(self.pred_masks)
        boxes = structures.Boxes(torch.from_numpy(self.pred_boxes))
        return structures.Instances(self.image_size, pred_boxes=boxes, **fields)
