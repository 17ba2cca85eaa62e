"""Gradio, which makes the page."""

from types import ModuleType


def require_gradio() -> ModuleType:
    """The module ``gradio``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            f"The page needs Gradio ({error}): pip install gradio, or the extra pair_detr[app].", name="gradio"
        ) from error
    return gradio
