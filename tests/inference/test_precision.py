"""Which precision "auto" is, by a timer that is no clock."""

from collections.abc import Callable, Iterator

import pytest
import torch

from pair_detr.inference import precision
from pair_detr.inference.precision import resolve_precision, time_product

CPU = torch.device("cpu")
Timer = Callable[[torch.device, torch.dtype], float]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    precision._fastest.cache_clear()
    yield
    precision._fastest.cache_clear()


def fake_timer(monkeypatch: pytest.MonkeyPatch, bf16: list[float]) -> list[torch.dtype]:
    """A product in fp32 takes a second, one in bf16 what the list says, again and again."""
    calls: list[torch.dtype] = []

    def timer(device: torch.device, dtype: torch.dtype) -> float:
        calls.append(dtype)
        return 1.0 if dtype == torch.float32 else bf16[calls.count(dtype) % len(bf16)]

    monkeypatch.setattr(precision, "time_product", timer)
    return calls


@pytest.mark.parametrize(
    ("bf16", "expected"),
    [
        ([0.15], torch.bfloat16),
        ([0.5], torch.bfloat16),
        # Some of them disturbed.
        ([0.2, 9.0, 0.2], torch.bfloat16),
        # No units for it: alike but for noise, or slower.
        ([0.9], torch.float32),
        ([8.0], torch.float32),
        ([0.1, 8.0, 8.0], torch.float32),
    ],
)
def test_auto_is_what_is_multiplied_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: list[float], expected: torch.dtype
) -> None:
    calls = fake_timer(monkeypatch, bf16)
    assert resolve_precision("auto", CPU) == expected
    measured = len(calls)
    assert resolve_precision("auto", CPU) == expected
    assert len(calls) == measured
    assert resolve_precision("auto", torch.device("cuda", 1)) == expected
    assert len(calls) == 2 * measured


def test_other_precisions_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_timer(monkeypatch, [0.1])
    dtypes = [resolve_precision(name, CPU) for name in ("fp32", "bf16", "fp16")]
    assert dtypes == [torch.float32, torch.bfloat16, torch.float16]
    assert calls == []


def test_devices_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    def timer(device: torch.device, dtype: torch.dtype) -> float:
        if dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    monkeypatch.setattr(precision, "time_product", timer)
    assert resolve_precision("auto", CPU) == torch.float32


def test_the_clock_runs_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    assert 0 < time_product(CPU, torch.float32) < 10
    assert torch.equal(torch.get_rng_state(), state)
