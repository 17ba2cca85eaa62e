"""Pair DETR, Conditional DETR and DETR as a Detectron2 project.

Importing the package registers the meta-architecture, the backbones and the datasets with Detectron2. Where torch or
Detectron2 is not installed, :mod:`pair_detr.runtime` alone can be used.
"""

import importlib
import warnings
from typing import Any

from pair_detr.utils.version import __version__

# Imported when they are used: neither training nor prediction has need of all, and the modules import this one.
_LAZY = {
    "Predictor": "predictor",
    "Trainer": "engine",
    "load_config": "config_files",
    "prepare_for_inference": "inference",
}
_missing: ModuleNotFoundError | None = None

try:
    import torch

    if torch.__version__ < "2.6":
        raise ImportError(
            f"pair_detr needs PyTorch 2.6 or later; this is {torch.__version__}, whose torch.load runs code that is "
            "hidden in files of weights (CVE-2025-32434). Update torch, torchvision and Detectron2, which is built for "
            "one torch, or build an environment of its own with 'make install'; see 'Installation' in the README."
        )
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("torch", "detectron2"):
        raise
    _missing = error
else:
    with warnings.catch_warnings():
        # fvcore and Detectron2 compile losses on their import, of which nothing here uses any.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is ", FutureWarning, r"torch\.jit\._script")
        from pair_detr import data
        from pair_detr.config import add_pair_detr_config
        from pair_detr.modeling import meta_arch

__all__ = [
    "Predictor",
    "Trainer",
    "__version__",
    "add_pair_detr_config",
    "data",
    "load_config",
    "meta_arch",
    "prepare_for_inference",
]


def __getattr__(name: str) -> Any:
    if _missing is not None and name in __all__:
        raise ModuleNotFoundError(
            f"pair_detr needs Detectron2 and PyTorch, and this Python has no {_missing.name}. 'pair-detr doctor' says "
            "how to get it; in the project's checkout, 'make install' installs everything. Only exported models run "
            "without it, by pair_detr.runtime.",
            name=_missing.name,
        ) from _missing
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"pair_detr.{_LAZY[name]}"), name)
