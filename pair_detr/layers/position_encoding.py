"""Sine encodings of positions: of every cell of a feature map, and of single points."""

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def point_encoding(points: Tensor, dim: int) -> Tensor:
    """Sine encoding of points.

    Args:
        points: (..., 2) x and y, normalized to 0..1.
        dim: width of the encoding, divisible by 4.

    Returns:
        (..., dim) fp32: the y half before the x half, sine and cosine interleaved.

    Source: DETR, appendix A.4; Conditional DETR, section 3.3 (the same encoding for reference points).
    """
    exponent = torch.arange(dim // 4, device=points.device, dtype=torch.float32) * (4 / dim)
    angle = points.float().flip(-1).unsqueeze(-1) * (2 * math.pi) / TEMPERATURE**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)


def sine_position_encoding(
    height: int, width: int, dim: int, padding_mask: Tensor | None, device: torch.device
) -> Tensor:
    """Sine encoding of the cells of a feature map; positions are counted in, and normalized to, the unpadded area.

    Args:
        height: rows of the feature map.
        width: columns of the feature map.
        dim: width of the encoding, divisible by 4.
        padding_mask: (B, height, width) bool, true in the padding; None if nothing is padded.
        device: where to make the encoding if there is no mask.

    Returns:
        (B, height * width, dim) fp32, with B = 1 if nothing is padded.
    """
    valid = torch.ones(1, height, width, device=device) if padding_mask is None else (~padding_mask).float()
    # The first valid cell is at 1, the last at the number of cells, as in the official code.
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = y / (y[:, -1:, :] + 1e-6)
    x = x / (x[:, :, -1:] + 1e-6)
    return point_encoding(torch.stack((x, y), dim=-1).flatten(1, 2), dim)
