"""Pictures of detections, drawn by Detectron2's Visualizer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap

from pair_detr.visualization.opencv import readable_visualizer
from pair_detr.visualization.text import drawable, set_fonts


def class_colors(count: int) -> np.ndarray:
    """(count, 3) RGB colors, 0..1, the same for a class in every picture."""
    return np.resize(colormap(rgb=True, maximum=1), (count, 3))


def draw_detections(image: np.ndarray, outputs: dict[str, Any], metadata: Metadata) -> np.ndarray:
    """Draws boxes, masks where there are any, or a panoptic segmentation.

    Args:
        image: (H, W, 3) uint8 in BGR order.
        outputs: "instances", on any device, or "panoptic_seg" as from Detectron2's panoptic models.
        metadata: ``thing_classes``; for panoptic segmentations what Detectron2's Visualizer asks for.

    Returns:
        (h, w, 3) uint8 in RGB order, larger than the image if this is small.

    Raises:
        ImportError: OpenCV is not installed.
    """
    entries = metadata.as_dict()
    names = {key: drawable(entries[key]) for key in ("thing_classes", "stuff_classes") if key in entries}
    metadata = Metadata(**entries | names)
    visualizer = readable_visualizer(image[:, :, ::-1], metadata)
    if "panoptic_seg" in outputs:
        segments, info = outputs["panoptic_seg"]
        visualizer.draw_panoptic_seg(segments.cpu(), info)
    elif "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        visualizer.overlay_instances(
            boxes=instances.pred_boxes,
            masks=instances.pred_masks if instances.has("pred_masks") else None,
            labels=labels_of(instances, metadata.thing_classes),
            assigned_colors=class_colors(len(metadata.thing_classes))[instances.pred_classes.numpy()],
            alpha=0.4,
        )
    set_fonts(visualizer.output.fig)
    return visualizer.output.get_image()


def labels_of(instances: Instances, names: Sequence[str]) -> list[str]:
    """ "cat 87%", one per instance."""
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    return [f"{names[c]} {s:.0%}" for c, s in zip(classes, scores, strict=True)]
