"""OpenCV, which videos and webcams need and nothing else does."""

from types import ModuleType


def require_opencv() -> ModuleType:
    """The module ``cv2``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"Videos and webcams need OpenCV ({error}): pip install opencv-python-headless, or the extra "
            "pair_detr[demo].",
            name="cv2",
        ) from error
    return cv2
