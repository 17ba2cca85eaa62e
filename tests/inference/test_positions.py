"""Position encodings that are kept."""

import torch

from pair_detr.inference import positions
from pair_detr.inference.positions import cached_position_encoding
from pair_detr.layers import sine_position_encoding

CPU = torch.device("cpu")


def test_sizes_are_computed_once() -> None:
    positions._of_size.cache_clear()
    first = cached_position_encoding(3, 4, 8, None, CPU)
    assert torch.equal(first, sine_position_encoding(3, 4, 8, None, CPU))
    assert cached_position_encoding(3, 4, 8, None, CPU) is first
    assert cached_position_encoding(4, 3, 8, None, CPU) is not first
    assert cached_position_encoding(3, 4, 16, None, CPU).shape == (1, 12, 16)


def test_padding_is_counted_for_each_batch() -> None:
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[1, 2:] = True
    for padding in (mask, mask.flip(1)):
        found = cached_position_encoding(3, 4, 8, padding, CPU)
        assert torch.equal(found, sine_position_encoding(3, 4, 8, padding, CPU))


def test_the_number_of_sizes_is_bounded() -> None:
    positions._of_size.cache_clear()
    for height in range(1, 100):
        cached_position_encoding(height, 2, 8, None, CPU)
    assert positions._of_size.cache_info().currsize == 32


def test_they_can_be_used_outside_of_inference_mode() -> None:
    positions._of_size.cache_clear()
    with torch.inference_mode():
        cached_position_encoding(3, 4, 8, None, CPU)
    weight = torch.ones(8, requires_grad=True)
    (cached_position_encoding(3, 4, 8, None, CPU) * weight).sum().backward()
    assert weight.grad.abs().sum() > 0
