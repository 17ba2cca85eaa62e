"""Boxes that no detector can learn from: what is wrong with them, and how that is reported."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import PurePath
from typing import Any

from detectron2.structures import BoxMode

from pair_detr.data.annotation_masks import MaskFault, size_of
from pair_detr.utils.messages import counted, join_some

logger = logging.getLogger(__name__)

_NAMED = 3


@dataclass(frozen=True)
class BoxFault:
    """One unusable box as annotated, whatever that is; ``index`` counts the image's annotations from 0."""

    file_name: str
    index: int
    bbox: Any
    reason: str

    def __str__(self) -> str:
        box = f"[{', '.join(f'{value:g}' for value in self.bbox)}]" if is_box(self.bbox) else repr(self.bbox)
        return f"annotation {self.index} of {PurePath(self.file_name).name} has box {box} ({self.reason})"


def is_box(bbox: Any) -> bool:
    """Whether this is a sequence of four numbers."""
    if not hasattr(bbox, "__len__") or len(bbox) != 4:
        return False
    # Asking for Real takes ten times as long.
    return {*map(type, bbox)} == {float} or all(isinstance(value, Real) for value in bbox)


def box_fault(bbox: Any, mode: Any, image_size: tuple[float, float] | None = None) -> str | None:
    """Says what makes a box unusable.

    Args:
        bbox: the box as annotated, in pixels.
        mode: ``BoxMode.XYXY_ABS`` or ``BoxMode.XYWH_ABS``.
        image_size: width and height of the image where known; a box that lies wholly outside is also a fault.

    Returns:
        the reason in a few words, or None for a usable box. Boxes partly outside of the image are usable.
    """
    if not is_box(bbox):
        return "not four numbers"
    if mode is not BoxMode.XYWH_ABS and mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        return f"box mode {mode!r} is neither XYXY_ABS nor XYWH_ABS"
    if not all(map(math.isfinite, bbox)):
        return "not finite"
    left, top, width, height = bbox
    if mode == BoxMode.XYXY_ABS:
        width, height = width - left, height - top
    if width <= 0 or height <= 0:
        side, length = ("width", width) if width <= 0 else ("height", height)
        return f"{'zero' if length == 0 else 'negative'} {side}"
    if image_size is not None:
        image_width, image_height = image_size
        if left >= image_width or top >= image_height or left + width <= 0 or top + height <= 0:
            return f"outside of the image of {image_width}x{image_height} pixels"
    return None


def faulty_boxes(record: dict[str, Any]) -> dict[int, BoxFault]:
    """The unusable boxes of an image, by the position of their annotation."""
    return {
        index: BoxFault(record["file_name"], index, annotation.get("bbox"), reason)
        for index, annotation in enumerate(record.get("annotations", ()))
        if (reason := box_fault(annotation.get("bbox"), annotation.get("bbox_mode"), size_of(record))) is not None
    }


def warn_of_dropped(name: str, faults: Sequence[BoxFault | MaskFault]) -> None:
    """Logs one warning for all the boxes of the dataset ``name`` dropped for themselves or their masks, if any."""
    if not faults:
        return
    logger.warning(
        'Dataset "%s": %s. Dropped %s. "python -m pair_detr.tools.check_dataset %s" (with --config-file if '
        "a config registers it) lists all.",
        name,
        join_some(list(map(str, faults)), _NAMED),
        counted(len(faults), "such box", "such boxes"),
        name,
    )
