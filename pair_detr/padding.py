"""Images of a batch in one tensor."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from pair_detr.transfer import upload


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
