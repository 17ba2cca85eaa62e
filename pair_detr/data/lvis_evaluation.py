"""Detectron2's evaluator of LVIS, with the versions of NumPy of today."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator


class LVISEvaluator(Detectron2LVISEvaluator):
    """Reports AP of rare, common and frequent classes as ``APr``, ``APc`` and ``APf``; see Detectron2's class."""

    def evaluate(self) -> dict[str, dict[str, float]]:
        with _numpy_with_float():
            # Detectron2 returns None in other processes than the first.
            return super().evaluate() or {}


@contextmanager
def _numpy_with_float() -> Iterator[None]:
    """``np.float``, which the package lvis uses up to its last version (0.5.3), but NumPy lost in 1.24."""
    if hasattr(np, "float"):
        yield
        return
    np.float = float
    try:
        yield
    finally:
        del np.float
