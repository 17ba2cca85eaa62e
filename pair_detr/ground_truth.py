"""What the dicts of a batch, as Detectron2's mappers make them, say about objects: the targets of a training step."""

import logging
from typing import Any

import torch
from detectron2.utils.logger import log_first_n
from torchvision.ops import box_convert

from pair_detr.data.messages import counted
from pair_detr.targets import Targets

# The one loss of images with labels, but no boxes.
IMAGE_LABEL_LOSS = "loss_image"


def annotation_kind(batched_inputs: list[dict[str, Any]]) -> str:
    """What the images of a batch are annotated with, "box" or "image": boxes, or labels of the images.

    Raises:
        ValueError: the batch has images of both kinds.
    """
    kinds = {item.get("ann_type", "box") for item in batched_inputs}
    if len(kinds) > 1:
        raise ValueError(
            f"A batch mixes images of the kinds {sorted(kinds)} (ann_type); all of its images must be of one."
        )
    return kinds.pop()


def lacks_loss(batched_inputs: list[dict[str, Any]], name: str) -> bool:
    """Whether the images of a batch are annotated otherwise than a loss needs: what it is then, zero, means nothing.

    Args:
        batched_inputs: of one kind.
        name: of one of the model's losses.
    """
    return (name == IMAGE_LABEL_LOSS) != (annotation_kind(batched_inputs) == "image")


def pack_boxes(
    batched_inputs: list[dict[str, Any]], num_queries: int, fixed_size: tuple[int, int] | None, class_agnostic: bool
) -> Targets:
    """Boxes as normalised cxcywh, and classes, on the host. Warns of images with more objects than queries.

    Args:
        batched_inputs: dicts with "instances": ``gt_boxes``, xyxy in pixels of the image, and ``gt_classes``.
        num_queries: of the model.
        fixed_size: height and width of the padded image that boxes are relative to; None is the image itself.
        class_agnostic: all classes become 0.
    """
    boxes, labels = [], []
    for item in batched_inputs:
        instances = item["instances"]
        height, width = fixed_size or instances.image_size
        scale = instances.gt_boxes.tensor.new_tensor([width, height, width, height])
        boxes.append(box_convert(instances.gt_boxes.tensor, "xyxy", "cxcywh") / scale)
        labels.append(torch.zeros_like(instances.gt_classes) if class_agnostic else instances.gt_classes)
        if len(instances) > num_queries:
            log_first_n(
                logging.WARNING,
                f"{item.get('file_name', 'An image')} has {counted(len(instances), 'object')}, but the model has only "
                f"{counted(num_queries, 'query', 'queries')}: the objects that fit best are matched. Raise "
                "MODEL.DETR.NUM_QUERIES.",
                n=5,
                key="caller",
            )
    return Targets.pack(boxes, labels)


def pack_image_labels(batched_inputs: list[dict[str, Any]]) -> Targets:
    """Labels of images without boxes, on the host; the dicts have them as "pos_category_ids"."""
    labels = [torch.tensor(item["pos_category_ids"], dtype=torch.int64) for item in batched_inputs]
    return Targets.pack_image_labels(labels)
