"""Masks at the size of an image, against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pair_detr.modeling.postprocessing import masks as in_torch
from pair_detr.runtime.masks import resize_bilinear, resize_masks


@pytest.mark.parametrize("size", [(40, 60), (13, 9), (5, 31), (1, 1), (10, 15)])
def test_bilinear(size: tuple[int, int]) -> None:
    maps = torch.randn(3, 10, 15)
    expected = F.interpolate(maps[None], size=size, mode="bilinear")[0]
    np.testing.assert_allclose(resize_bilinear(maps.numpy(), size), expected, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 37])
def test_masks(count: int) -> None:
    logits = 5 * F.interpolate(torch.randn(1, count, 4, 6), size=(12, 18), mode="bilinear")[0] if count else None
    logits = torch.zeros(0, 12, 18) if logits is None else logits
    sizes = (48, 72), (40, 66), (100, 33)
    expected = in_torch.resize_masks(logits, *sizes) > 0.5 if count else torch.zeros(0, 100, 33)
    found = resize_masks(logits.numpy(), *sizes)
    assert found.shape == expected.shape and found.dtype == bool
    assert np.count_nonzero(found != expected.numpy()) <= 1e-4 * found.size
