"""Dropout on CPUs: how many elements it zeroes, which, and what is left of the others."""

import pytest
import torch
import torch.nn.functional as F

from pair_detr.layers import Dropout, attend, attention
from pair_detr.layers.dropout import dropout

COUNT = 400_003


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
def test_share_and_scale(p: float) -> None:
    """The mean stays 1; the share is within four standard deviations."""
    torch.manual_seed(0)
    out = dropout(torch.ones(COUNT), p)
    share = (out == 0).float().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / COUNT) ** 0.5)
    kept = out[out != 0]
    assert (kept == kept[0]).all()
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=1e-3)


def test_elements_are_independent_of_their_neighbors() -> None:
    """Four of which share a random number."""
    torch.manual_seed(0)
    is_dropped = (dropout(torch.ones(COUNT), 0.3) == 0).float() - 0.3
    for distance in range(1, 9):
        correlation = (is_dropped[:-distance] * is_dropped[distance:]).mean() / 0.21
        assert abs(correlation.item()) < 4 / COUNT**0.5
    # Whatever the place in it.
    for place in range(4):
        assert is_dropped[place::4].mean().item() == pytest.approx(0, abs=4 * (0.21 * 4 / COUNT) ** 0.5)


def test_gradient_and_type() -> None:
    x = torch.randn(3, 5, 7, dtype=torch.bfloat16, requires_grad=True)
    out = dropout(x, 0.5)
    assert out.dtype == x.dtype and out.shape == x.shape
    out.sum().backward()
    assert torch.equal(x.grad != 0, out != 0)
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}


def test_seed_and_modes() -> None:
    module, x = Dropout(0.5), torch.randn(100)
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        outputs.append(module(x))
    assert torch.equal(*outputs)
    assert not torch.equal(module(x), outputs[0])
    assert module.eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert not dropout(x, 1.0).any()


@pytest.mark.parametrize("mask", ["none", "keys", "bias"])
def test_attention_with_dropout_is_torch_s_but_for_what_is_dropped(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 6, 16), torch.randn(2, 6, 8)
    masks = {
        "none": None,
        "keys": torch.arange(6).expand(2, 1, 1, 6) < torch.tensor([4, 6])[:, None, None, None],
        "bias": torch.randn(2, 4, 5, 6),
    }
    expected = attend(query, key, value, 4, masks[mask])
    assert not torch.allclose(attend(query, key, value, 4, masks[mask], dropout=0.5), expected)
    monkeypatch.setattr(attention, "drop", lambda weights, p: weights)
    torch.testing.assert_close(attend(query, key, value, 4, masks[mask], dropout=0.5), expected)


def test_mean_of_attention_with_dropout() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    many = [x.expand(20000, -1, -1) for x in (query, key, value)]
    torch.testing.assert_close(
        attend(*many, 2, dropout=0.2).mean(0), attend(query, key, value, 2)[0], atol=0.02, rtol=0
    )


def test_attention_without_dropout_stays_on_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(kwargs) or fused(*args, **kwargs)
    )
    attend(*(torch.randn(1, 4, 8) for _ in range(3)), 2)
    assert [call["dropout_p"] for call in calls] == [0.0]
