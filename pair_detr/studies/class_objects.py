"""The objects of datasets and of annotation files, by class: what studies of classes start from."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode

from pair_detr.data import class_names_of, load_dataset
from pair_detr.data.annotation_masks import mask_fault, size_of
from pair_detr.data.checks.invalid_boxes import box_fault
from pair_detr.data.datasets.lvis_json import load_own_lvis
from pair_detr.open_vocabulary import Vocabulary
from pair_detr.utils.messages import counted, join_some

logger = logging.getLogger(__name__)

# The noise of a class's mean is not known from one image.
_MIN_IMAGES = 2


@dataclass(frozen=True)
class ClassObjects:
    """Objects of the classes that have enough of them.

    Attributes:
        names: of the C classes, as the vocabulary has them.
        rows: (C, D) fp64 text rows, of length 1.
        classes: (N,) the class of each object.
        images: (N,) the number of its image.
        boxes: (N, 4) xyxy in pixels.
        sizes: (N, 2) width and height of the image.
        records: N images in Detectron2's format.
        annotations: N annotations in Detectron2's format.
    """

    names: list[str]
    rows: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    records: list[dict[str, Any]]
    annotations: list[dict[str, Any]]

    def describe(self) -> str:
        """Counts, such as "47 classes, 913 boxes, 92 images"."""
        return f"{len(self.names)} classes, {len(self.classes)} boxes, {len(np.unique(self.images))} images"


def load_records(source: str, image_root: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """Images and classes of a dataset in Detectron2's catalog, or of a .json file in the format of COCO or LVIS.

    Raises:
        KeyError, OSError, ValueError, ImportError: it is not registered, or cannot be read.
    """
    if not source.endswith(".json"):
        return load_dataset(source), list(class_names_of(source) or [])
    metadata = Metadata(name=source, json_file=source, image_root=image_root)
    return load_own_lvis(metadata), list(metadata.thing_classes)


def load_objects(
    sources: Sequence[str], vocabulary: Vocabulary, min_boxes: int, image_root: str = "", with_masks: bool = False
) -> ClassObjects:
    """All objects of several sources whose class is in the vocabulary, and has enough of them; crowds are left out.

    Args:
        sources: see :func:`load_records`.
        min_boxes: that a class needs; they must be in two images at least.
        image_root: folder of the images of .json files.
        with_masks: leave out objects without a usable segmentation.

    Raises:
        KeyError, OSError, ValueError, ImportError: a source cannot be read.
    """
    found: list[tuple[int, int, dict[str, Any], dict[str, Any]]] = []
    unknown: set[str] = set()
    num_images = 0
    for source in sources:
        records, names = load_records(source, image_root)
        index = vocabulary.find(names)
        unknown.update(name for name, own in zip(names, index, strict=True) if own is None)
        for image, record in enumerate(records, start=num_images):
            found += [
                (own, image, record, annotation)
                for annotation in record.get("annotations", ())
                if (own := index[annotation["category_id"]]) is not None and _is_usable(record, annotation, with_masks)
            ]
        num_images += len(records)
    if unknown:
        logger.warning(
            "%s without text rows, left out: %s.", counted(len(unknown), "class", "classes"), join_some(sorted(unknown))
        )
    by_class: dict[int, list[int]] = {}
    for number, (own, *_) in enumerate(found):
        by_class.setdefault(own, []).append(number)
    chosen = [
        own
        for own, numbers in sorted(by_class.items())
        if len(numbers) >= min_boxes and len({found[number][1] for number in numbers}) >= _MIN_IMAGES
    ]
    position = {own: number for number, own in enumerate(chosen)}
    kept = [entry for entry in found if entry[0] in position]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for *_, a in kept]
    return ClassObjects(
        [vocabulary.names[own] for own in chosen],
        vocabulary.weights[chosen].double().numpy(),
        np.array([position[own] for own, *_ in kept], dtype=np.int64),
        np.array([image for _, image, *_ in kept], dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([size_of(record) for *_, record, _ in kept], dtype=np.float64).reshape(-1, 2),
        [record for *_, record, _ in kept],
        [annotation for *_, annotation in kept],
    )


def _is_usable(record: dict[str, Any], annotation: dict[str, Any], with_masks: bool) -> bool:
    size = size_of(record)
    if annotation.get("iscrowd") or size is None:
        return False
    if with_masks and mask_fault(annotation.get("segmentation"), size) is not None:
        return False
    return box_fault(annotation.get("bbox"), annotation.get("bbox_mode"), size) is None
