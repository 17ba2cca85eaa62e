"""Sine encodings against the formula written out."""

import math

import pytest
import torch
from torch import Tensor

from pair_detr.layers import point_encoding, sine_position_encoding


def formula(x: float, y: float, dim: int) -> list[float]:
    """The encoding of one point whose coordinates are in 0..2 pi: y before x, sine and cosine by turns."""
    values = []
    for coordinate in (y, x):
        for i in range(dim // 2):
            angle = coordinate / 10000 ** (2 * (i // 2) / (dim // 2))
            values.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    return values


@pytest.mark.parametrize("dim", [8, 32])
def test_points(dim: int) -> None:
    points = torch.rand(2, 3, 2)
    encoding = point_encoding(points, dim)
    assert encoding.shape == (2, 3, dim)
    expected = [[formula(x * 2 * math.pi, y * 2 * math.pi, dim) for x, y in row] for row in points.tolist()]
    torch.testing.assert_close(encoding, torch.tensor(expected), atol=1e-5, rtol=0)


def expected_map(height: int, width: int, dim: int) -> Tensor:
    """(height * width, dim); the first cell is at 1 / n, the last at n / n of 2 pi."""
    return torch.tensor(
        [
            formula((column + 1) / (width + 1e-6) * 2 * math.pi, (row + 1) / (height + 1e-6) * 2 * math.pi, dim)
            for row in range(height)
            for column in range(width)
        ]
    )


def test_unpadded_map() -> None:
    encoding = sine_position_encoding(3, 5, 16, None, torch.device("cpu"))
    assert encoding.shape == (1, 15, 16)
    torch.testing.assert_close(encoding[0], expected_map(3, 5, 16), atol=1e-5, rtol=0)


def test_padding_does_not_count() -> None:
    sizes = [(4, 6), (2, 6), (3, 5), (1, 1)]
    mask = torch.ones(len(sizes), 4, 6, dtype=torch.bool)
    for row, (height, width) in zip(mask, sizes, strict=True):
        row[:height, :width] = False
    encoding = sine_position_encoding(4, 6, 16, mask, torch.device("cpu")).unflatten(1, (4, 6))
    for i, (height, width) in enumerate(sizes):
        cropped = encoding[i, :height, :width].flatten(0, 1)
        torch.testing.assert_close(cropped, expected_map(height, width, 16), atol=1e-5, rtol=0)
    assert torch.isfinite(encoding).all()


def test_empty_mask_equals_no_mask() -> None:
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    device = torch.device("cpu")
    masked = sine_position_encoding(3, 5, 16, mask, device)
    torch.testing.assert_close(masked, sine_position_encoding(3, 5, 16, None, device).expand(2, -1, -1))
