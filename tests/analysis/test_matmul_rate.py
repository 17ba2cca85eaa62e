"""The rate of a product of matrices, and the share of it that a model reaches."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from pair_detr.analysis import matmul_rate as module


def test_matrices_grow_until_their_product_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that does 1e11 multiply-adds a second, and takes a millisecond before each product."""
    sizes = []

    def measure(steps: Sequence[Callable[[], torch.Tensor]], repeats: int, device: str) -> np.ndarray:
        product = steps[0]()
        assert product.dtype == torch.bfloat16
        sizes.append(len(product))
        return np.full((repeats, 1), 0.001 + len(product) ** 3 / 1e11)

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "_SMALLEST", 64)
    monkeypatch.setattr(module, "_SECONDS", 0.002)
    rate = module.matmul_rate("cpu", "bf16")
    assert sizes == [64, 128, 256, 512]
    assert rate == pytest.approx(512**3 / (0.001 + 512**3 / 1e11))
    monkeypatch.setattr(module, "_LARGEST", 128)
    assert module.matmul_rate("cpu", "bf16") == pytest.approx(128**3 / (0.001 + 128**3 / 1e11))


def test_share_of_the_rate() -> None:
    # Two images of 3e9 multiply-adds in 0.1 s are 6e10 a second.
    assert module.share_of_rate(3e9, 2, 0.1, 1e11, training=False) == pytest.approx(0.6)
    assert module.share_of_rate(3e9, 2, 0.1, 1e12, training=True) == pytest.approx(0.18)
