"""Pictures of datasets, as annotated and as the model gets them, drawn by Detectron2's Visualizer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from pair_detr.data.annotation_masks import mask_fault, to_rle
from pair_detr.data.checks.invalid_boxes import box_fault
from pair_detr.data.datasets.panoptic_masks import load_segment_masks, mask_file
from pair_detr.images.reading import read_pixels, to_rgb
from pair_detr.visualization.detections import class_colors
from pair_detr.visualization.opencv import readable_visualizer
from pair_detr.visualization.text import drawable, set_fonts


def draw_record(record: dict[str, Any], class_names: Sequence[str]) -> np.ndarray:
    """Draws an image with its annotations; boxes and masks that cannot be used are left out.

    Returns:
        (h, w, 3) uint8 in RGB order, larger than the image if this is small.

    Raises:
        OSError, ValueError: the image, or the file with its segments, cannot be read; the message names it.
        ImportError: OpenCV is not installed.
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
    visualizer = readable_visualizer(image)
    class_names = drawable(class_names)
    names = [_name(class_names, index) for index in classes]
    colors = class_colors(max(len(class_names), 1))
    # The Visualizer takes masks for all instances of a call, or for none.
    for with_mask in (True, False):
        chosen = [i for i, mask in enumerate(masks) if (mask is not None) == with_mask]
        visualizer.overlay_instances(
            boxes=np.array([boxes[i] for i in chosen], dtype=float).reshape(-1, 4),
            masks=[masks[i] for i in chosen] if with_mask else None,
            labels=[f"{names[i]} {notes[i]}".strip() for i in chosen],
            assigned_colors=[colors[classes[i] % len(colors)] for i in chosen],
            alpha=0.4,
        )
    if image_labels:
        text = ", ".join(_name(class_names, index) for index in image_labels)
        visualizer.draw_text(text, (2, 2), horizontal_alignment="left")
    set_fonts(visualizer.output.fig)
    return visualizer.output.get_image()


def _name(class_names: Sequence[str], index: Any) -> str:
    known = isinstance(index, int) and 0 <= index < len(class_names)
    return class_names[index] if known else f"class {index}"
