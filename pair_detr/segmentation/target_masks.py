"""Ground-truth masks of a batch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.data.messages import counted


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
