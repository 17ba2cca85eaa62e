"""Pictures of datasets, as annotated and as the model gets them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from pair_detr.data.annotation_masks import mask_fault, to_rle
from pair_detr.data.checks.invalid_boxes import box_fault
from pair_detr.data.datasets.panoptic_masks import load_segment_masks, mask_file
from pair_detr.drawing.objects import class_colors, draw_caption, draw_objects
from pair_detr.images.reading import read_pixels, to_rgb


def draw_record(record: dict[str, Any], class_names: Sequence[str]) -> np.ndarray:
    """Draws an image with its annotations; boxes and masks that cannot be used are left out.

    Returns:
        (H, W, 3) uint8 in RGB order.

    Raises:
        OSError, ValueError: the image, or the file with its segments, cannot be read; the message names it.
        ImportError: supervision is not installed.
    """
    image = read_pixels(record["file_name"], "RGB")
    height, width = image.shape[:2]
    if mask_file(record):
        record = load_segment_masks({"height": height, "width": width, **record}, masks=True)
    boxes, classes, masks, notes = [], [], [], []
    for annotation in record.get("annotations", ()):
        if box_fault(annotation.get("bbox"), annotation.get("bbox_mode"), (width, height)):
            continue
        segmentation = annotation.get("segmentation")
        usable = mask_fault(segmentation, (width, height)) is None
        boxes.append(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS))
        classes.append(annotation["category_id"])
        masks.append(to_rle(segmentation, height, width) if usable else None)
        notes.append(" ".join(f"({key})" for key in ("iscrowd", "difficult") if annotation.get(key)))
    return _draw(image, boxes, classes, masks, notes, record.get("pos_category_ids", ()), class_names)


def draw_input(
    item: dict[str, Any],
    class_names: Sequence[str],
    image_format: str = "RGB",
    fixed_size: Sequence[int] = (),
    padding: Sequence[float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Draws what the model trains on.

    Args:
        item: as :class:`pair_detr.data.DetectionMapper` makes it.
        image_format: of its image, see :data:`pair_detr.config.choices.IMAGE_CHANNELS`.
        fixed_size: height and width that the model pads it to, if it does.
        padding: value of each channel there, in the order of ``image_format``.

    Returns:
        as for :func:`draw_record`.
    """
    image = item["image"].permute(1, 2, 0).numpy()
    if fixed_size:
        canvas = np.empty((*fixed_size, image.shape[2]), dtype=np.uint8)
        canvas[:] = np.round(padding)
        canvas[: image.shape[0], : image.shape[1]] = image
        image = canvas
    image = to_rgb(image, image_format)
    instances = item["instances"]
    count = len(instances)
    masks = [None] * count
    if instances.has("gt_masks"):
        missing = [(0, full - side) for full, side in zip(image.shape[:2], instances.image_size, strict=True)]
        masks = [np.pad(mask, missing) for mask in instances.gt_masks.tensor.numpy()]
    boxes, classes = instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist()
    return _draw(image, boxes, classes, masks, [""] * count, item.get("pos_category_ids", ()), class_names)


def _draw(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
    masks: Sequence[Any],
    notes: Sequence[str],
    image_labels: Sequence[int],
    class_names: Sequence[str],
) -> np.ndarray:
    colors = class_colors(max(len(class_names), 1))
    labels = [f"{_name(class_names, index)} {note}".strip() for index, note in zip(classes, notes, strict=True)]
    picture = draw_objects(
        image,
        np.array(boxes, dtype=float).reshape(-1, 4),
        labels,
        colors[[index % len(colors) for index in classes]],
        _stack(masks, image.shape[:2]),
    )
    if image_labels:
        picture = draw_caption(picture, ", ".join(_name(class_names, index) for index in image_labels))
    return picture


def _stack(masks: Sequence[Any], size: tuple[int, int]) -> np.ndarray | None:
    """(N, H, W) bool of masks or run lengths, without a pixel where there is none; None without any."""
    if all(mask is None for mask in masks):
        return None
    empty = np.zeros(size, bool)
    decoded = (mask_util.decode(mask) if isinstance(mask, dict) else mask for mask in masks)
    return np.stack([empty if mask is None else np.asarray(mask, bool) for mask in decoded])


def _name(class_names: Sequence[str], index: Any) -> str:
    known = isinstance(index, int) and 0 <= index < len(class_names)
    return class_names[index] if known else f"class {index}"
