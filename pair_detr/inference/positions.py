"""Position encodings of feature maps, kept by size."""

from functools import lru_cache

import torch
from torch import Tensor

from pair_detr.layers import sine_position_encoding

# Sizes of which encodings are kept, of all models together; of images with 1333 x 800 pixels each takes 1 MB.
_SIZES = 32


def cached_position_encoding(
    height: int, width: int, dim: int, padding_mask: Tensor | None, device: torch.device
) -> Tensor:
    """As :func:`pair_detr.layers.sine_position_encoding`; what is without padding is the same for all of a size."""
    # A compiler traces the computation, for sizes that it does not know.
    if padding_mask is not None or torch.compiler.is_compiling():
        return sine_position_encoding(height, width, dim, padding_mask, device)
    return _of_size(height, width, dim, device)


@lru_cache(_SIZES)
def _of_size(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    # A tensor of inference mode could not be used outside of it.
    with torch.inference_mode(False):
        return sine_position_encoding(height, width, dim, None, device)
