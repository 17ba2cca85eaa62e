"""A predicted mask that equals the annotated one stays equal on its way to the output size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pair_detr.modeling.postprocessing.masks import resize_masks

STRIDE = 4
PADDED, IMAGE = (96, 128), (64, 96)


def bands(size: tuple[int, int], scale: float) -> Tensor:
    """An upright and a lying band, and one that reaches the right border, with edges on whole pixels."""
    masks = torch.zeros(3, *size, dtype=torch.bool)
    edges = [int(scale * x) for x in (16, 40, 8, 56, 72)]
    masks[0, :, edges[0] : edges[1]] = True
    masks[1, edges[2] : edges[3]] = True
    masks[2, :, edges[4] :] = True
    return masks


@pytest.mark.parametrize(("output", "scale"), [((64, 96), 1), ((128, 192), 2), ((96, 144), 1.5), ((32, 48), 0.5)])
def test_a_perfect_mask_has_an_iou_of_1(output: tuple[int, int], scale: float) -> None:
    small = bands((IMAGE[0] // STRIDE, IMAGE[1] // STRIDE), 1 / STRIDE)
    logits = torch.where(small, 8.0, -8.0)
    beyond = ((PADDED[1] - IMAGE[1]) // STRIDE, (PADDED[0] - IMAGE[0]) // STRIDE)
    logits = F.pad(logits[None], (0, beyond[0], 0, beyond[1]), mode="replicate")[0]
    # The padding is the opposite of what is next to it, but must not be seen.
    logits[:, small.shape[1] :] *= -0.5
    logits[:, : small.shape[1], small.shape[2] :] *= -0.5
    found = resize_masks(logits, PADDED, IMAGE, output) > 0.5
    expected = bands(output, scale)
    intersection, union = (found & expected).sum((1, 2)), (found | expected).sum((1, 2))
    assert torch.equal(intersection, union)


def test_a_shift_by_a_pixel_would_be_seen() -> None:
    expected = bands(IMAGE, 1)
    assert ((expected.roll(1, 2) & expected).sum((1, 2)) < (expected.roll(1, 2) | expected).sum((1, 2)))[[0, 2]].all()


@pytest.mark.parametrize("output", [(64, 96), (97, 151), (40, 50)])
def test_no_masks(output: tuple[int, int]) -> None:
    assert resize_masks(torch.zeros(0, 24, 32), PADDED, IMAGE, output).shape == (0, *output)
