"""supervision, which draws what is detected."""

import warnings
from types import ModuleType


def require_supervision() -> ModuleType:
    """The module ``supervision``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        with warnings.catch_warnings():
            # Without OpenCV it draws as well.
            warnings.filterwarnings("ignore", "OpenCV")
            import supervision
    except ImportError as error:
        raise ImportError(
            f"Drawing detections needs supervision ({error}): pip install supervision, or the extra pair_detr[demo].",
            name="supervision",
        ) from error
    return supervision
