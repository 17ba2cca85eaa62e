"""Datasets in the folder layout of Pascal VOC, with classes of their own."""

import logging
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from pair_detr.data.checks.invalid_boxes import BoxFault, box_fault, warn_of_dropped
from pair_detr.data.datasets.pascal_voc_files import (
    AnnotatedImage,
    annotated_images,
    annotation_files,
    image_root_of,
)
from pair_detr.utils.xml_files import read_xml

logger = logging.getLogger(__name__)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def register_voc(
    name: str,
    root: str,
    split: str | None,
    class_names: Sequence[str] | None = None,
    year: int = 2012,
    **metadata: Any,
) -> None:
    """Registers a folder in Pascal VOC's layout; nothing is read until the dataset is used.

    The metadata serve :class:`pair_detr.evaluation.pascal_voc.VOCEvaluator` (which ``evaluator_type`` asks for) and
    Detectron2's COCOEvaluator.

    Args:
        root: folder that holds ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``; or all annotations next to their
            images.
        split: ``ImageSets/Main/<split>.txt`` lists the images; None takes all that have annotations.
        class_names: the classes in the order of their ids. By default all names in ``Annotations``, sorted, so
            that all splits of a folder have the same classes.
        year: 2007 or 2012, the way in which the VOC evaluator computes AP.

    Raises:
        ValueError: ``year`` is neither of the two, or a class name occurs twice.
    """
    if year not in (2007, 2012):
        raise ValueError(f'Dataset "{name}": YEAR is {year}, but Pascal VOC defines AP for 2007 and 2012 only.')
    if class_names is not None and len(set(class_names)) != len(class_names):
        raise ValueError(f'Dataset "{name}": a class occurs twice in {list(class_names)}; name every class once.')

    def load() -> list[dict[str, Any]]:
        classes = infer_class_names(root) if class_names is None else list(class_names)
        MetadataCatalog.get(name).thing_classes = classes
        dicts = load_voc(root, split, classes)
        warn_of_dropped(name, [fault for record in dicts for fault in record.get("dropped_boxes", ())])
        return dicts

    DatasetCatalog.register(name, load)
    entries = MetadataCatalog.get(name)
    entries.set(
        dirname=str(root),
        image_root=str(image_root_of(Path(root))),
        split=split,
        year=year,
        evaluator_type="pascal_voc",
        **metadata,
    )
    if class_names is not None:
        entries.thing_classes = list(class_names)


def infer_class_names(root: str) -> list[str]:
    """All class names in ``root/Annotations``, sorted."""
    files = annotation_files(Path(root))
    return sorted({_text(obj, "name", file) for file in files for obj in read_xml(file).iter("object")})


def load_voc(root: str, split: str | None, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Reads one split, or all images with annotations if it is None; :func:`annotated_images` says which these are.

    As Detectron2's ``load_voc_instances``, but it accepts other image formats than .jpg and lists of a single image,
    and says which file is at fault.

    Coordinates become 0-based: ``xmin`` and ``ymin`` less one, in xyxy pixels.

    Returns:
        the images in Detectron2's standard format; ``image_id`` is the path below ``JPEGImages`` without extension.
        Annotations carry ``difficult``, 0 (also where the file does not say) or 1: such objects are trained on, but
        VOC's AP does not ask for them. Boxes that the annotator gave no extent (``xmax <= xmin``, ``ymax <= ymin``) are
        left out and listed under ``dropped_boxes``.

    Raises:
        FileNotFoundError: the split's list, an annotation or an image is missing.
        ValueError: a malformed annotation, one of which several images could be, or a class that is not in
            ``class_names``.
    """
    class_ids = {class_name: index for index, class_name in enumerate(class_names)}
    return [_read_image(image, class_ids) for image in annotated_images(Path(root), split)]


def _read_image(image: AnnotatedImage, class_ids: dict[str, int]) -> dict[str, Any]:
    annotation_file = image.annotation
    root = read_xml(annotation_file)
    width, height = (_number(root, f"size/{side}", annotation_file) for side in ("width", "height"))
    if width <= 0 or height <= 0:
        raise ValueError(
            f"{annotation_file}: <size> is {width:g}x{height:g}; write the image's width and height there."
        )
    annotations, dropped = [], []
    for index, obj in enumerate(root.iter("object")):
        class_name = _text(obj, "name", annotation_file)
        if class_name not in class_ids:
            raise ValueError(
                f'{annotation_file}: object {index} is of class "{class_name}", which is not among the dataset\'s '
                f"classes {list(class_ids)}. Add it to CLASSES, or correct the name in the file."
            )
        corners = [_number(obj, f"bndbox/{corner}", annotation_file) for corner in _CORNERS]
        # Judged as annotated: below, a click without a drag (xmin = xmax) would pass for a box of one pixel.
        reason = box_fault(corners, BoxMode.XYXY_ABS)
        if reason is not None:
            dropped.append(BoxFault(str(image.image), index, tuple(corners), reason))
            continue
        # VOC counts pixels from 1 and includes the last.
        bbox = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
        difficult = int(obj.find("difficult") is not None and _number(obj, "difficult", annotation_file) != 0)
        annotations.append(
            {
                "category_id": class_ids[class_name],
                "bbox": bbox,
                "bbox_mode": BoxMode.XYXY_ABS,
                "difficult": difficult,
            }
        )
    record = {
        "file_name": str(image.image),
        "image_id": image.name,
        "height": int(height),
        "width": int(width),
        "annotations": annotations,
    }
    return record | {"dropped_boxes": dropped} if dropped else record


def _text(element: ET.Element, path: str, file: Path) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"{file}: <{path}> of <{element.tag}> is missing or empty; correct the file.")
    return text.strip()


def _number(element: ET.Element, path: str, file: Path) -> float:
    text = _text(element, path, file)
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f'{file}: <{path}> is "{text}", not a number; correct the file.') from error
