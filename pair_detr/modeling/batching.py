"""Detectron2's dicts of a batch as tensors: padded images, boxes, labels and masks."""

import logging
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.logger import log_first_n
from torch import Tensor
from torchvision.ops import box_convert

from pair_detr.structures import Batch, Size, Targets
from pair_detr.utils.device import to_device_async
from pair_detr.utils.messages import counted

# The one loss of images with labels, but no boxes.
IMAGE_LABEL_LOSS = "loss_image"


def batch_images(
    batched_inputs: list[dict[str, Any]],
    normalize: Callable[[Tensor], Tensor],
    fixed_size: Size | None = None,
    buckets: Sequence[Size] = (),
) -> Batch:
    """The images of a batch, normalized, and padded with zeros at the right and at the bottom.

    Args:
        batched_inputs: dicts with "image", (C, H, W), and optionally "height" and "width", the size that boxes and
            masks are returned for; by default the image's own.
        normalize: maps an image to what the model takes, on its device.
        fixed_size: height and width to pad to; the padding then is a part of the image: nothing is masked, and boxes
            are relative to it. None pads to the largest of the images, and masks that.
        buckets: heights and widths; the smallest that holds all images is what they are padded to then. There is always
            a mask.

    Raises:
        ValueError: an image is larger than the fixed size, or the images fit into none of the buckets.
    """
    images = [normalize(item["image"]) for item in batched_inputs]
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    outputs = [
        (item.get("height", height), item.get("width", width))
        for item, (height, width) in zip(batched_inputs, sizes, strict=True)
    ]
    if fixed_size is not None:
        height, width = fixed_size
        if too_large := [size for size in sizes if size[0] > height or size[1] > width]:
            raise ValueError(
                f"An image of {too_large[0]} pixels (height, width) is larger than INPUT.FIXED_SIZE {fixed_size}: "
                "resize it to fit, as pair_detr.data.build_augmentation does."
            )
        return Batch(_pad(images, fixed_size), None, sizes, outputs, boxes_span_padding=True)
    if buckets:
        padded = _pad(images, _smallest_bucket(sizes, buckets))
        return Batch(padded, _mask_beyond(sizes, padded), sizes, outputs)
    padded = ImageList.from_tensors(images).tensor
    return Batch(padded, _padding_mask(sizes, padded), sizes, outputs)


def _pad(images: Sequence[Tensor], size: Size) -> Tensor:
    height, width = size
    return torch.stack([F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in images])


def _smallest_bucket(sizes: list[Size], buckets: Sequence[Size]) -> Size:
    height, width = (max(side) for side in zip(*sizes, strict=True))
    fitting = [bucket for bucket in buckets if bucket[0] >= height and bucket[1] >= width]
    if not fitting:
        raise ValueError(
            f"Images of up to {height} x {width} pixels fit into none of INPUT.SIZE_BUCKETS "
            f"{[tuple(bucket) for bucket in buckets]}: add a larger one, or resize them to fit."
        )
    return min(fitting, key=math.prod)


def _padding_mask(sizes: list[Size], padded: Tensor) -> Tensor | None:
    """(B, H, W) bool, true in the padding; None if there is none."""
    height, width = padded.shape[-2:]
    return None if all(size == (height, width) for size in sizes) else _mask_beyond(sizes, padded)


def _mask_beyond(sizes: list[Size], padded: Tensor) -> Tensor:
    height, width = padded.shape[-2:]
    device = padded.device
    edges = to_device_async(torch.tensor(sizes), device)
    below = torch.arange(height, device=device) >= edges[:, :1]
    beside = torch.arange(width, device=device) >= edges[:, 1:]
    return below[:, :, None] | beside[:, None, :]


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
    """Whether the images of a batch lack the annotations that a loss needs, which is then a meaningless zero.

    Args:
        batched_inputs: of one kind.
        name: of one of the model's losses.
    """
    return (name == IMAGE_LABEL_LOSS) != (annotation_kind(batched_inputs) == "image")


def pack_boxes(
    batched_inputs: list[dict[str, Any]], frame_sizes: Sequence[Size], num_queries: int, class_agnostic: bool
) -> Targets:
    """Boxes as normalized cxcywh, and classes, on the host. Warns of images with more objects than queries.

    Args:
        batched_inputs: dicts with "instances": ``gt_boxes``, xyxy in pixels of the image, and ``gt_classes``; classes
            are not learned of those with a true "unclassified".
        frame_sizes: see :attr:`Batch.frame_sizes`.
        num_queries: of the model.
        class_agnostic: all classes become 0.
    """
    targets = _pack_instances(batched_inputs, frame_sizes)
    if class_agnostic:
        targets.labels = torch.zeros_like(targets.labels)
    unclassified = [item.get("unclassified", False) for item in batched_inputs]
    if any(unclassified):
        targets.classified = ~torch.tensor(unclassified)[targets.image_index]
    for item, count in zip(batched_inputs, targets.counts, strict=True):
        if count > num_queries:
            log_first_n(
                logging.WARNING,
                f"{item.get('file_name', 'An image')} has {counted(count, 'object')}, but the model has only "
                f"{counted(num_queries, 'query', 'queries')}: the objects that fit best are matched. Raise "
                "MODEL.DETR.NUM_QUERIES.",
                n=5,
                key="caller",
            )
    return targets


def draw_noise(
    batched_inputs: list[dict[str, Any]], counts: Sequence[int], per_object: int, seed: int, iteration: int
) -> Tensor:
    """(T, per_object) fp32, uniform in 0..1: what is random about denoising queries.

    That of an image depends on seed, iteration and its id (or file name) alone: not on the process that has it, nor on
    the rest of the batch.
    """
    rows = [torch.zeros(0, per_object)]
    for index, (item, count) in enumerate(zip(batched_inputs, counts, strict=True)):
        name = item.get("image_id", item.get("file_name", index))
        identity = zlib.crc32(str(name).encode())
        generator = np.random.default_rng([seed, iteration, identity])
        rows.append(torch.from_numpy(generator.random((count, per_object), dtype=np.float32)))
    return torch.cat(rows)


def pack_image_labels(batched_inputs: list[dict[str, Any]], frame_sizes: Sequence[Size]) -> Targets:
    """Labels of images without boxes, on the host; the dicts have them as "pos_category_ids".

    Args:
        batched_inputs: dicts that may have "instances", with ``gt_boxes`` of objects that the labels are not of.
        frame_sizes: see :attr:`Batch.frame_sizes`.
    """
    targets = Targets.pack_image_labels(
        [torch.tensor(item["pos_category_ids"], dtype=torch.int64) for item in batched_inputs]
    )
    if any(len(item.get("instances", ())) for item in batched_inputs):
        nothing = Instances((1, 1), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
        targets.image_labels.known = _pack_instances([{"instances": nothing} | x for x in batched_inputs], frame_sizes)
    return targets


def _pack_instances(batched_inputs: list[dict[str, Any]], frame_sizes: Sequence[Size]) -> Targets:
    boxes, labels = [], []
    for item, (height, width) in zip(batched_inputs, frame_sizes, strict=True):
        instances = item["instances"]
        scale = instances.gt_boxes.tensor.new_tensor([width, height, width, height])
        boxes.append(box_convert(instances.gt_boxes.tensor, "xyxy", "cxcywh") / scale)
        labels.append(instances.gt_classes)
    return Targets.pack(boxes, labels)


def pack_masks(batched_inputs: list[dict[str, Any]], padded_size: Size) -> Tensor:
    """The masks of all objects of a batch, image after image.

    Args:
        batched_inputs: dicts with "image", (3, H, W), and "instances" with ``gt_masks``, BitMasks of that size. Only
            images without objects may lack them.
        padded_size: height and width of the padded batch.

    Returns:
        (T, height, width) bool at the size of the padded batch, false in the padding.

    Raises:
        ValueError: an image has objects, but no masks.
    """
    sizes = [item["image"].shape[-2:] for item in batched_inputs]
    height, width = padded_size
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
