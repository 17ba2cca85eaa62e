"""Detectron2's dicts of a batch as tensors: padded images, boxes, labels and masks."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from detectron2.utils.logger import log_first_n
from torch import Tensor
from torchvision.ops import box_convert

from pair_detr.structures import Targets
from pair_detr.utils.device import upload
from pair_detr.utils.messages import counted

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


def pad_images(images: Sequence[Tensor], fixed_size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor | None]:
    """Pads with zeros at the right and at the bottom.

    Args:
        images: (C, H, W) each, on the same device.
        fixed_size: height and width to pad to, without a mask; None pads to the largest of the images.

    Returns:
        (B, C, H, W), and (B, H, W) bool that is true in the padding, or None if nothing is to be masked.

    Raises:
        ValueError: an image is larger than the fixed size.
    """
    if fixed_size is not None:
        height, width = fixed_size
        if too_large := [tuple(x.shape[-2:]) for x in images if x.shape[-2] > height or x.shape[-1] > width]:
            raise ValueError(
                f"An image of {too_large[0]} pixels (height, width) is larger than INPUT.FIXED_SIZE {fixed_size}: "
                "resize it to fit, as pair_detr.data.build_augmentation does."
            )
        return torch.stack([F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in images]), None
    batch = ImageList.from_tensors(list(images))
    height, width = batch.tensor.shape[-2:]
    if all(size == (height, width) for size in batch.image_sizes):
        return batch.tensor, None
    device = batch.tensor.device
    sizes = upload(torch.tensor(batch.image_sizes), device)
    below = torch.arange(height, device=device) >= sizes[:, :1]
    beside = torch.arange(width, device=device) >= sizes[:, 1:]
    return batch.tensor, below[:, :, None] | beside[:, None, :]


def pack_masks(batched_inputs: list[dict[str, Any]], padded_size: tuple[int, int] | None = None) -> Tensor:
    """The masks of all objects of a batch, image after image.

    Args:
        batched_inputs: dicts with "image", (3, H, W), and "instances" with ``gt_masks``, BitMasks of that size. Only
            images without objects may lack them.
        padded_size: height and width of the padded batch; None is the largest of each.

    Returns:
        (T, height, width) bool at the size of the padded batch, false in the padding.

    Raises:
        ValueError: an image has objects, but no masks.
    """
    sizes = [item["image"].shape[-2:] for item in batched_inputs]
    height, width = padded_size or (max(side) for side in zip(*sizes, strict=True))
    packed = [torch.zeros(0, height, width, dtype=torch.bool)]
    for item, (h, w) in zip(batched_inputs, sizes, strict=True):
        instances = item["instances"]
        if len(instances) == 0:
            continue
        if not instances.has("gt_masks"):
            raise ValueError(
                f"{item.get('file_name', 'An image')} has {counted(len(instances), 'object')} without masks, but "
                "MODEL.MASK_ON is "
                'True: give every annotation a "segmentation", or set MODEL.MASK_ON False.'
            )
        packed.append(F.pad(instances.gt_masks.tensor, (0, width - w, 0, height - h)))
    return torch.cat(packed)
