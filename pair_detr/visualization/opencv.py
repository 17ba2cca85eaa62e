"""OpenCV, which Detectron2's Visualizer and videos need and nothing else does."""

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from detectron2.data import Metadata

if TYPE_CHECKING:
    from detectron2.utils.visualizer import Visualizer

# Labels are readable where the short side has so many pixels; smaller images are enlarged.
_READABLE_SIDE = 480
_MAX_SCALE = 5.0
# Matplotlib draws, and JPEG files hold, less than 2 ** 16 pixels a side.
_MAX_SIDE = 2**15


def require_opencv() -> ModuleType:
    """The module ``cv2``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"Drawing detections needs OpenCV ({error}): pip install opencv-python-headless, or the extra "
            "pair_detr[demo].",
            name="cv2",
        ) from error
    return cv2


def readable_visualizer(image: np.ndarray, metadata: Metadata | None = None) -> "Visualizer":
    """Detectron2's ``Visualizer`` of an (H, W, 3) uint8 RGB image, which it enlarges if labels would be unreadable.

    Images with a side that is too long for a picture are reduced.

    Raises:
        ImportError: OpenCV is not installed.
    """
    require_opencv()
    from detectron2.utils.visualizer import Visualizer

    scale = min(max(1.0, _READABLE_SIDE / min(image.shape[:2])), _MAX_SCALE, _MAX_SIDE / max(image.shape[:2]))
    return Visualizer(np.ascontiguousarray(image), metadata, scale=scale)
