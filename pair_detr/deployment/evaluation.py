"""Evaluates an exported model as Detectron2 evaluates any other."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from pair_detr.data import resolve_class_names
from pair_detr.runtime import Detector
from pair_detr.utils.class_names import normalize_name


class ExportedModel(nn.Module):
    """An exported model with the inputs and outputs of Detectron2's models, on the CPU; it has no parameters."""

    def __init__(self, detector: Detector) -> None:
        """
        Args:
            detector: see :func:`pair_detr.runtime.load`.
        """
        super().__init__()
        self.detector = detector

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detections of dicts with "image", (C, H, W) uint8 at the size of the model, "height" and "width"."""
        prepared = []
        for item in batched_inputs:
            pixels = item["image"].numpy().transpose(1, 2, 0)
            prepared.append((pixels, (item.get("height", pixels.shape[0]), item.get("width", pixels.shape[1]))))
        found = self.detector.predict(prepared)
        return [{"instances": result["instances"].to_detectron2()} for result in found]


def require_classes(detector: Detector, cfg: CfgNode) -> None:
    """Makes sure that the labels of an exported model are those of a config's datasets.

    A model with a text classifier is given the classes of the datasets, where it knows them.

    Raises:
        ValueError: they are not.
    """
    expected = resolve_class_names(cfg)
    if expected is None or list(map(normalize_name, detector.class_names)) == list(map(normalize_name, expected)):
        return
    if detector.description.text_dim:
        detector.set_vocabulary(expected)
        return
    raise ValueError(
        f"The exported model detects {len(detector.class_names)} classes ({', '.join(detector.class_names[:5])}, ...), "
        f"but the datasets of the config have {len(expected)} ({', '.join(expected[:5])}, ...): evaluate it with the "
        "config that it was exported with."
    )
