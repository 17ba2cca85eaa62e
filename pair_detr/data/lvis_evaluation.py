"""Detectron2's evaluator of LVIS, with the versions of NumPy of today, and what it needs of a data set."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator

from pair_detr.data.json_files import read_json
from pair_detr.data.messages import join_some

_MAX_DETECTIONS = 300
# What LVIS's evaluation reads, beyond ids, by the list of the file.
_FIELDS = {
    "images": ("id", "neg_category_ids", "not_exhaustive_category_ids"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "frequency"),
}
_NAMED = 3


class LVISEvaluator(Detectron2LVISEvaluator):
    """Reports AP of rare, common and frequent classes as ``APr``, ``APc`` and ``APf``; see Detectron2's class.

    The metric of a kind of which there are no objects is NaN.

    Args:
        name: registered data set.
        max_detections: the most detections of an image that count; None is LVIS's limit, 300.
        options: further arguments of Detectron2's class.
    """

    def __init__(self, name: str, *, max_detections: int | None = None, **options: Any) -> None:
        super().__init__(name, max_dets_per_image=max_detections or _MAX_DETECTIONS, **options)
        # LVIS writes the id of the object found where 0 stands for none, into an array of floats.
        for number, annotation in enumerate(self._lvis_api.dataset["annotations"], start=1):
            annotation["id"] = number
        self._lvis_api._create_index()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As Detectron2's.

        Raises:
            ValueError: an image is not one of the ground truth.
        """
        for image in inputs:
            if image["image_id"] not in self._lvis_api.imgs:
                raise ValueError(
                    f"Predictions are made for image {image['image_id']!r} ({image.get('file_name', 'unknown file')}), "
                    f"which {self._metadata.json_file} has not. Make the data set's images those of the file."
                )
        super().process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """As Detectron2's; empty in other processes than the first."""
        with _numpy_with_float():
            results = super().evaluate() or {}
        # LVIS says -1 where there are no objects, of which Detectron2 makes -100 percent.
        return {
            task: {key: value if value >= 0 else math.nan for key, value in metrics.items()}
            for task, metrics in results.items()
        }


def require_lvis(name: str) -> None:
    """Makes sure that LVIS's evaluator can be used.

    Args:
        name: of the data set, for the message.

    Raises:
        ImportError: a package is not installed.
    """
    # lvis imports OpenCV, even to evaluate.
    if find_spec("lvis") is None or find_spec("cv2") is None:
        raise ImportError(f'The evaluator of {name} needs the packages lvis and OpenCV: run "pip install lvis".')


def require_lvis_file(name: str) -> None:
    """Makes sure that LVIS's evaluator will take the annotations of a data set, which it reads by itself.

    Raises:
        FileNotFoundError: its file does not exist.
        OSError: the file cannot be read.
        ValueError: the metadata name no file; or it lacks what LVIS adds to COCO's format, or has ids that the
            evaluator would round or cannot sort.
    """
    remedy = 'For data in another format than LVIS\'s set TEST.EVALUATOR "coco".'
    file = MetadataCatalog.get(name).get("json_file")
    if not file:
        raise ValueError(f"{name} has no json_file in its metadata, which LVIS's evaluator reads. {remedy}")
    if not Path(file).is_file():
        raise FileNotFoundError(f'Test set "{name}": {file} does not exist. Restore it, or correct the path.')
    content = read_json(file)
    lists = content if isinstance(content, dict) else {}
    if absent := [key for key in _FIELDS if not isinstance(lists.get(key), list)]:
        raise ValueError(f"{file} has no list {', '.join(absent)}, which LVIS's evaluator needs. {remedy}")
    for key, fields in _FIELDS.items():
        for position, entry in enumerate(content[key]):
            if missing := [field for field in fields if field not in entry]:
                raise ValueError(
                    f"{file}: {key}[{position}] has no {', '.join(missing)}, which LVIS's evaluator needs. {remedy}"
                )
    ids = [image["id"] for image in content["images"]]
    if bad := [repr(own) for own in ids if not _is_sortable(own)]:
        raise ValueError(
            f"{file}: LVIS's evaluator cannot tell images apart by the ids {join_some(bad, _NAMED)}: give them whole "
            f"numbers of up to 63 bits. {remedy}"
        )


def _is_sortable(image_id: Any) -> bool:
    return isinstance(image_id, int) and -(2**63) <= image_id < 2**63


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
