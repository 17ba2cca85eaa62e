"""The ground truth of COCO's evaluation, made of the records of a dataset."""

import io
import math
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from numbers import Real
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from pair_detr.data.annotation_masks import MaskFault, mask_fault, to_rle
from pair_detr.data.checks.invalid_boxes import BoxFault, box_fault, is_box
from pair_detr.data.datasets.panoptic_masks import load_segment_masks
from pair_detr.images.reading import image_sizes

_READERS = 8
_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
# Beyond the widest of COCO's ranges an object would not count at all.
_MAX_AREA = 1e5**2


def number_images(name: str, records: Sequence[dict[str, Any]]) -> dict[Hashable, int]:
    """Numbers images from 1 on, in the order of their ids, in which pycocotools goes through them.

    pycocotools puts ids into arrays of 64 bits or of floats, and others, such as hashes, would become one another.

    Returns:
        the numbers by ``image_id``.

    Raises:
        ValueError: an id occurs twice, or is missing.
    """
    files: dict[Hashable, str] = {}
    for record in records:
        if "image_id" not in record:
            raise ValueError(f'Test set "{name}": {record["file_name"]} has no image_id. Give each image its own.')
        image_id = record["image_id"]
        if image_id in files:
            raise ValueError(
                f'Test set "{name}": the images {files[image_id]} and {record["file_name"]} have the same image_id, '
                f"{image_id!r}, so that their predictions cannot be told apart. Give each image its own."
            )
        files[image_id] = record["file_name"]
    try:
        ordered = sorted(files)
    except TypeError:
        # Numbers and text have no common order.
        ordered = list(files)
    return {image_id: number for number, image_id in enumerate(ordered, start=1)}


def require_known_images(name: str, inputs: Sequence[dict[str, Any]], known: Container[Hashable]) -> None:
    """Raises a ValueError if one of the images to evaluate predictions of is not ``known`` by its id."""
    for image in inputs:
        if image["image_id"] not in known:
            raise ValueError(
                f'Test set "{name}": predictions are made for image {image["image_id"]!r} '
                f"({image.get('file_name', 'of unknown file')}), which its ground truth has not. If the dataset is "
                "registered in Python, its function has to give an image the same image_id at each call."
            )


def are_annotated(records: Sequence[dict[str, Any]]) -> bool:
    """Whether there is a ground truth: images to predict on alone, as COCO's test images, have no "annotations"."""
    return any("annotations" in record for record in records)


def objects_of(records: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int, dict[str, Any]]]:
    """All annotations, each after its image and its position among those of the image."""
    for record in records:
        for index, annotation in enumerate(record.get("annotations", ())):
            yield record, index, annotation


def is_to_be_found(annotation: dict[str, Any]) -> bool:
    """Whether AP asks for an object: it is no crowd, and predictions can be compared with it."""
    return not annotation.get("iscrowd") and can_be_compared(annotation)


def can_be_compared(annotation: dict[str, Any]) -> bool:
    """Whether a box has an IoU with others, if only 0: pycocotools finds one of NaN in every prediction."""
    box = annotation.get("bbox")
    return is_box(box) and all(map(math.isfinite, box)) and annotation.get("bbox_mode") in _BOX_MODES


def unfindable_boxes(records: Sequence[dict[str, Any]]) -> list[BoxFault]:
    """Boxes that no prediction can find."""
    return [
        BoxFault(record["file_name"], index, annotation.get("bbox"), reason)
        for record, index, annotation in objects_of(records)
        if (reason := box_fault(annotation.get("bbox"), annotation.get("bbox_mode")))
    ]


def unusable_masks(records: Sequence[dict[str, Any]]) -> list[MaskFault]:
    """Objects, crowds among them, without a mask that predictions could be compared with."""
    return [
        MaskFault(record["file_name"], index, reason)
        for record, index, annotation in objects_of(records)
        if "pan_seg_file_name" not in record
        and (reason := mask_fault(annotation.get("segmentation"), _size_of(record)))
    ]


def make_coco(
    records: Sequence[dict[str, Any]], numbers: dict[Hashable, int], class_names: Sequence[str], masks: bool
) -> COCO:
    """The ground truth as pycocotools has it.

    Args:
        records: images in Detectron2's standard format, panoptic ones as
            :func:`pair_detr.data.datasets.coco_panoptic.complete_records` makes them.
        numbers: of the images, see :func:`number_images`.
        class_names: of the classes, which become the categories 1, 2, ...
        masks: whether to take masks. Those of panoptic images are in their PNG files, which are read.

    Returns:
        with the images under their numbers. Objects have ids from 1 on, as 0 stands for none in pycocotools, and the
        area that the data say; if they do not, the area of their mask, or without ``masks`` of their box.

    Raises:
        OSError, ValueError: a PNG file cannot be read, see :func:`load_segment_masks`.
    """
    if masks:
        with ThreadPoolExecutor(_READERS) as readers:
            records = list(readers.map(_with_masks, records))
    annotations: list[dict[str, Any]] = []
    for record, _, annotation in objects_of(records):
        if can_be_compared(annotation):
            entry = _entry(annotation, record, masks)
            place = {"id": len(annotations) + 1, "image_id": numbers[record["image_id"]]}
            annotations.append(place | entry)
    content = {
        "images": [
            {"id": numbers[record["image_id"]], "width": record.get("width"), "height": record.get("height")}
            for record in records
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)],
        "annotations": annotations,
    }
    return as_coco(content)


def as_coco(content: dict[str, Any]) -> COCO:
    """The content of a file in COCO's format, with pycocotools' index of it."""
    coco = COCO()
    coco.dataset = content
    without_prints(coco.createIndex)
    return coco


def without_prints(function: Callable[[], Any]) -> Any:
    """The result of a function of pycocotools, which print."""
    with redirect_stdout(io.StringIO()):
        return function()


def _with_masks(record: dict[str, Any]) -> dict[str, Any]:
    if "pan_seg_file_name" in record:
        return load_segment_masks(record, masks=True)
    if "width" not in record or "height" not in record:
        size = image_sizes([Path(record["file_name"])])[0]
        if size is None:
            raise OSError(f"{record['file_name']} cannot be read as an image. Replace the file.")
        return {**record, "width": size[0], "height": size[1]}
    return record


def _entry(annotation: dict[str, Any], record: dict[str, Any], masks: bool) -> dict[str, Any]:
    x, y, *rest = annotation["bbox"]
    width, height = rest if annotation["bbox_mode"] == BoxMode.XYWH_ABS else (rest[0] - x, rest[1] - y)
    entry = {
        "category_id": annotation["category_id"] + 1,
        "bbox": [x, y, width, height],
        "iscrowd": int(bool(annotation.get("iscrowd"))),
    }
    area = max(width, 0) * max(height, 0)
    if masks:
        entry["segmentation"] = to_rle(annotation["segmentation"], record["height"], record["width"])
        area = float(mask_util.area(entry["segmentation"]))
    given = annotation.get("area")
    usable = isinstance(given, Real) and math.isfinite(given) and 0 <= given <= _MAX_AREA
    return entry | {"area": given if usable else area}


def _size_of(record: dict[str, Any]) -> tuple[int, int] | None:
    return (record["width"], record["height"]) if "width" in record and "height" in record else None
