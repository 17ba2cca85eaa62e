"""The pair association losses against loops over their definitions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pair_detr.losses.contrastive import CONTRASTIVE_LOSSES, nt_xent, symmetric_cross_entropy

Loss = Callable[[Tensor, Tensor, float], Tensor]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def nt_xent_by_loops(a: Tensor, b: Tensor, temperature: float) -> float:
    """1 / (2 N) sum_i [l(a_i, b_i) + l(b_i, a_i)], with every other embedding of the image in the denominator."""
    n = len(a)
    everything = [*a, *b]
    total = 0.0
    for i in range(2 * n):
        positive = i + n if i < n else i - n
        exponentials = [math.exp(cosine(everything[i], z) / temperature) for z in everything]
        total -= math.log(exponentials[positive] / (sum(exponentials) - exponentials[i]))
    return total / (2 * n)


def cross_by_loops(a: Tensor, b: Tensor, temperature: float) -> float:
    n = len(a)
    total = 0.0
    for i in range(n):
        row = [math.exp(cosine(a[i], b[j]) / temperature) for j in range(n)]
        column = [math.exp(cosine(a[j], b[i]) / temperature) for j in range(n)]
        total -= math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))
    return total / (2 * n)


BY_LOOPS = {"nt_xent": nt_xent_by_loops, "cross": cross_by_loops}


@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("name", list(CONTRASTIVE_LOSSES))
def test_equals_loops_on_each_layer_and_image(name: str, temperature: float) -> None:
    a, b = torch.randn(2, 3, 5, 8) * 4, torch.randn(2, 3, 5, 8)
    loss = CONTRASTIVE_LOSSES[name](a, b, temperature)
    assert loss.shape == (2, 3)
    for layer in range(2):
        for image in range(3):
            expected = BY_LOOPS[name](a[layer, image], b[layer, image], temperature)
            assert loss[layer, image].item() == pytest.approx(expected, rel=1e-4)


def test_two_pairs_by_hand() -> None:
    """N = 2 with orthogonal pairs that agree: cosines are 1 with the partner and 0 with the two others."""
    a = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    b = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    e = math.exp(1 / 0.5)
    assert nt_xent(a, b, 0.5).item() == pytest.approx(math.log((e + 2) / e), rel=1e-5)
    # The cross form has one negative rather than two.
    assert symmetric_cross_entropy(a, b, 0.5).item() == pytest.approx(math.log((e + 1) / e), rel=1e-5)
    # Partners exchanged: the cosine with the partner is 0, with one of the others 1.
    assert nt_xent(a, b.flip(0), 0.5).item() == pytest.approx(math.log(e + 2), rel=1e-5)
    assert symmetric_cross_entropy(a, b.flip(0), 0.5).item() == pytest.approx(math.log(e + 1), rel=1e-5)


@pytest.mark.parametrize("loss", CONTRASTIVE_LOSSES.values())
def test_order_of_queries_and_of_decoders_does_not_matter(loss: Loss) -> None:
    a, b = torch.randn(6, 8), torch.randn(6, 8)
    expected = loss(a, b, 0.2)
    order = torch.randperm(6)
    torch.testing.assert_close(loss(a[order], b[order], 0.2), expected)
    torch.testing.assert_close(loss(b, a, 0.2), expected)
    assert not torch.isclose(loss(a, b[order], 0.2), expected)


@pytest.mark.parametrize("loss", CONTRASTIVE_LOSSES.values())
def test_least_where_pairs_agree_and_are_orthogonal(loss: Loss) -> None:
    best = loss(torch.eye(6), torch.eye(6), 0.1)
    for _ in range(5):
        noise = torch.randn(2, 6, 6) * 0.3
        assert loss(torch.eye(6) + noise[0], torch.eye(6) + noise[1], 0.1) > best


@pytest.mark.parametrize("loss", CONTRASTIVE_LOSSES.values())
def test_gradient_pulls_partners_together(loss: Loss) -> None:
    a, b = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    before = loss(a, b, 0.1)
    before.backward()
    after = loss(a - 0.01 * a.grad, b - 0.01 * b.grad, 0.1)
    assert after < before


@pytest.mark.parametrize("loss", CONTRASTIVE_LOSSES.values())
def test_half_precision_is_computed_in_fp32(loss: Loss) -> None:
    a, b = torch.randn(5, 8).bfloat16(), torch.randn(5, 8).bfloat16()
    value = loss(a, b, 0.1)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(a.float(), b.float(), 0.1))
