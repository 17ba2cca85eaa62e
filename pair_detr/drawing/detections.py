"""Pictures of detections."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from torchvision.ops import masks_to_boxes

from pair_detr.drawing.objects import class_colors, draw_objects


def draw_detections(image: np.ndarray, outputs: dict[str, Any], metadata: Metadata) -> np.ndarray:
    """Draws boxes, masks where there are any, or a panoptic segmentation.

    Args:
        image: (H, W, 3) uint8 in BGR order.
        outputs: "instances", on any device, or "panoptic_seg" as from Detectron2's panoptic models.
        metadata: ``thing_classes``, and ``stuff_classes`` for panoptic segmentations.

    Returns:
        (H, W, 3) uint8 in RGB order.

    Raises:
        ImportError: supervision is not installed.
    """
    pixels = image[:, :, ::-1]
    if "panoptic_seg" in outputs:
        return _draw_segments(pixels, *outputs["panoptic_seg"], metadata)
    if "instances" not in outputs:
        return pixels.copy()
    instances = outputs["instances"].to("cpu")
    return draw_objects(
        pixels,
        instances.pred_boxes.tensor.numpy(),
        labels_of(instances, metadata.thing_classes),
        class_colors(len(metadata.thing_classes))[instances.pred_classes.numpy()],
        instances.pred_masks.numpy() if instances.has("pred_masks") else None,
    )


def labels_of(instances: Instances, names: Sequence[str]) -> list[str]:
    """ "cat 87%", one per instance; with ``track_ids``, of which a negative one is none, "#3 cat 87%"."""
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    tracks = instances.track_ids.tolist() if instances.has("track_ids") else [-1] * len(classes)
    columns = zip(classes, scores, tracks, strict=True)
    return [f"#{t} " * (t >= 0) + f"{names[c]} {s:.0%}" for c, s, t in columns]


def _draw_segments(
    image: np.ndarray, segments: torch.Tensor, infos: Sequence[dict[str, Any]], metadata: Metadata
) -> np.ndarray:
    """Draws segments of (H, W) ids, each with "id", "isthing" and "category_id", and things with a "score"."""
    things, stuff = list(metadata.thing_classes), list(metadata.get("stuff_classes") or ())
    segments = segments.cpu()
    shown = [info for info in infos if (segments == info["id"]).any()]
    masks = torch.stack([segments == info["id"] for info in shown]) if shown else segments.new_zeros(0, *segments.shape)
    colors = class_colors(len(things) + len(stuff))
    labels = [
        things[info["category_id"]] + (f" {info['score']:.0%}" if "score" in info else "")
        if info["isthing"]
        else stuff[info["category_id"]]
        for info in shown
    ]
    rows = [info["category_id"] + (0 if info["isthing"] else len(things)) for info in shown]
    return draw_objects(
        image, masks_to_boxes(masks).numpy() if shown else np.zeros((0, 4)), labels, colors[rows], masks.bool().numpy()
    )
