"""Detectron2's evaluator of LVIS, with the versions of NumPy of today and for own data."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator

logger = logging.getLogger(__name__)


class LVISEvaluator(Detectron2LVISEvaluator):
    """Reports AP of rare, common and frequent classes as ``APr``, ``APc`` and ``APf``; see Detectron2's class.

    Own data in LVIS's format may leave out what LVIS has: see :func:`complete`. Where objects have no segmentation,
    boxes alone are evaluated.
    """

    def __init__(self, dataset_name: str, tasks: tuple[str, ...] | None = None, **options: Any) -> None:
        """
        Args:
            dataset_name: registered, with ``json_file`` in its metadata.
            tasks: "bbox", "segm"; None follows the predictions.
            options: of Detectron2's class.
        """
        super().__init__(dataset_name, tasks, **options)
        complete(self._lvis_api.dataset)
        # Annotations have other ids now.
        self._lvis_api._create_index()
        unmasked = [a["id"] for a in self._lvis_api.dataset["annotations"] if not a.get("segmentation")]
        if unmasked and "segm" in (tasks or ()):
            logger.warning(
                'Test set "%s": %d objects have no segmentation. Boxes are evaluated, but masks are not: add the '
                "segmentations.",
                dataset_name,
                len(unmasked),
            )
            self._tasks = ("bbox",)

    def evaluate(self) -> dict[str, dict[str, float]]:
        with _numpy_with_float():
            # Detectron2 returns None in other processes than the first.
            results = super().evaluate() or {}
        # LVIS writes -1 for what there is none of, Detectron2 makes -100 of it; COCO's evaluator gives NaN.
        return {
            task: {metric: value if value >= 0 else float("nan") for metric, value in metrics.items()}
            for task, metrics in results.items()
        }


def complete(content: dict[str, Any]) -> None:
    """Gives a file in LVIS's format, in place, what the evaluation needs and own files may not have.

    An image without ``neg_category_ids`` is annotated exhaustively: what it has no object of is not in it. Classes
    without ``frequency`` are frequent, areas are those of the boxes, and crowds are ignored. Annotations get new ids.
    """
    present: dict[Any, set[Any]] = defaultdict(set)
    for number, annotation in enumerate(content["annotations"], start=1):
        present[annotation["image_id"]].add(annotation["category_id"])
        # The evaluation takes the id 0 for no object.
        annotation["id"] = number
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        annotation.setdefault("ignore", int(bool(annotation.get("iscrowd"))))
    categories = {category["id"] for category in content["categories"]}
    for image in content["images"]:
        image.setdefault("not_exhaustive_category_ids", [])
        if "neg_category_ids" not in image:
            image["neg_category_ids"] = sorted(categories - present[image["id"]])
    for category in content["categories"]:
        category.setdefault("frequency", "f")


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
