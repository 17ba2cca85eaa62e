"""Detectron2's evaluator of LVIS, with the versions of NumPy of today and for custom data."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator
from detectron2.utils import comm

from pair_detr.data.datasets.coco_entries import normalize_annotations, normalize_categories, normalize_images
from pair_detr.data.scalars import flag_of, id_of
from pair_detr.utils.atomic import temporary_folder
from pair_detr.utils.json_files import read_json
from pair_detr.utils.messages import counted, join_some

logger = logging.getLogger(__name__)

_MAX_DETECTIONS = 300
# What Detectron2's evaluator writes.
_FILES = ("instances_predictions.pth", "lvis_instances_results.json")
_LISTS = ("images", "annotations", "categories")
_NAMED = 3


class LVISEvaluator(Detectron2LVISEvaluator):
    """Reports AP of rare, common and frequent classes as ``APr``, ``APc`` and ``APf``; see Detectron2's class.

    Custom data in LVIS's format may leave out what LVIS has: see :func:`complete`. Where objects have no segmentation,
    boxes alone are evaluated. The metric of a kind of which there are no objects is NaN.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: tuple[str, ...] | None = None,
        *,
        max_detections: int = _MAX_DETECTIONS,
        **options: Any,
    ) -> None:
        """
        Args:
            dataset_name: registered, with ``json_file`` in its metadata.
            tasks: "bbox" and "segm"; None follows the predictions.
            max_detections: the most detections per image that count, the best ones; LVIS's limit is 300.
            options: of Detectron2's class.
        """
        super().__init__(dataset_name, tasks, max_dets_per_image=max_detections, **options)
        complete(self._lvis_api.dataset)
        # Annotations have other ids now.
        self._lvis_api._create_index()
        unmasked = [a["id"] for a in self._lvis_api.dataset["annotations"] if not a.get("segmentation")]
        if unmasked and "segm" in (tasks or ()):
            logger.warning(
                'Test set "%s": %s no segmentation. Boxes are evaluated, but masks are not: add the segmentations.',
                dataset_name,
                counted(len(unmasked), "object has", "objects have"),
            )
            self._tasks = ("bbox",)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As Detectron2's; raises a ValueError if an image is not one of the ground truth."""
        for image in inputs:
            if image["image_id"] not in self._lvis_api.imgs:
                raise ValueError(
                    f"Predictions are made for image {image['image_id']!r} ({image.get('file_name', 'unknown file')}), "
                    f"which {self._metadata.json_file} has not. Make the dataset's images those of the file."
                )
        super().process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """As Detectron2's; empty in other processes than the first."""
        with _numpy_with_float(), self._whole_files():
            # Detectron2 returns None in other processes than the first.
            results = super().evaluate() or {}
        # LVIS writes -1 for what there is none of, Detectron2 makes -100 of it; COCO's evaluator gives NaN.
        return {
            task: {metric: value if value >= 0 else float("nan") for metric, value in metrics.items()}
            for task, metrics in results.items()
        }

    @contextmanager
    def _whole_files(self) -> Iterator[None]:
        """What Detectron2 writes in the block is in its folder when it is complete."""
        target = self._output_dir
        if not target or not comm.is_main_process():
            yield
            return
        with temporary_folder(Path(target)) as folder:
            self._output_dir = str(folder)
            try:
                yield
            finally:
                self._output_dir = target
            for name in _FILES:
                if (folder / name).is_file():
                    (folder / name).replace(Path(target) / name)
                    logger.info("%s is in %s.", name, target)


def complete(content: dict[str, Any]) -> None:
    """Gives a file in LVIS's format, in place, what the evaluation needs and custom files may not have.

    An image without ``neg_category_ids`` is annotated exhaustively: what it has no object of is not in it. Classes
    without ``frequency`` are frequent, areas are those of the boxes, and crowds are ignored. Annotations get new ids.
    """
    images, categories = content["images"], content["categories"]
    normalize_images(images, ("id",))
    normalize_categories(categories)
    # What is wrong with entries has been said when the images were loaded.
    normalize_annotations(content["annotations"], images, categories, ("image_id", "category_id", "bbox"), unique=False)
    present: dict[Any, set[Any]] = defaultdict(set)
    for number, annotation in enumerate(content["annotations"], start=1):
        present[annotation["image_id"]].add(annotation["category_id"])
        # The evaluation takes the id 0 for no object.
        annotation["id"] = number
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        annotation.setdefault("ignore", annotation["iscrowd"])
    category_ids = {category["id"] for category in categories}
    for image in images:
        image.setdefault("not_exhaustive_category_ids", [])
        if "neg_category_ids" not in image:
            image["neg_category_ids"] = sorted(category_ids - present[image["id"]])
    for category in categories:
        category.setdefault("frequency", "f")


def require_lvis(name: str) -> None:
    """Raises an ImportError if a package is not installed that LVIS's evaluator needs."""
    # lvis imports OpenCV, even to evaluate.
    if find_spec("lvis") is None or find_spec("cv2") is None:
        raise ImportError(f'The evaluator of {name} needs the packages lvis and OpenCV: run "pip install lvis".')


def require_lvis_file(name: str) -> None:
    """Makes sure that LVIS's evaluator will take the annotations of a dataset, which it reads by itself.

    Raises:
        FileNotFoundError: its file does not exist.
        OSError: the file cannot be read.
        ValueError: the metadata name no file; it lacks a list, has crowds alone, or images have ids that the evaluator
            would round or cannot sort.
    """
    remedy = 'or set TEST.EVALUATOR "coco"'
    file = MetadataCatalog.get(name).get("json_file")
    if not file:
        raise ValueError(f"{name} has no json_file in its metadata, which LVIS's evaluator reads: set it, {remedy}.")
    if not Path(file).is_file():
        raise FileNotFoundError(f'Test set "{name}": {file} does not exist. Restore it, or correct the path.')
    content = read_json(file)
    lists = content if isinstance(content, dict) else {}
    if absent := [key for key in _LISTS if not isinstance(lists.get(key), list)]:
        raise ValueError(f"{file} has no list {', '.join(absent)}, which LVIS's evaluator needs: add it, {remedy}.")
    if not content["annotations"]:
        # As in LVIS's file of test images.
        logger.warning('Test set "%s" has no annotations: predictions are written, but there will be no AP.', name)
    elif all(flag_of(a.get("iscrowd")) or flag_of(a.get("ignore")) for a in content["annotations"]):
        raise ValueError(
            f'Test set "{name}": {file} has no object to find, so that there is no AP. Correct the annotations, or '
            "take it out of DATASETS.TEST."
        )
    ids = [id_of(image["id"]) for image in content["images"]]
    if bad := [repr(own) for own in ids if not (isinstance(own, int) and -(2**63) <= own < 2**63)]:
        raise ValueError(
            f"{file}: LVIS's evaluator cannot tell images apart by the ids {join_some(bad, _NAMED)}: give them whole "
            f"numbers of up to 63 bits, {remedy}."
        )


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
