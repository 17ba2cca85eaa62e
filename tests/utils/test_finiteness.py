"""NaN and infinity are found in any type of tensor, at any depth."""

import math

import pytest
import torch

from pair_detr.utils.finiteness import describe_non_finite, find_non_finite

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e5m2]


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [(dtype, bad) for dtype in FLOATS for bad in (math.nan, math.inf, -math.inf)] + [(torch.float8_e4m3fn, math.nan)],
)
def test_one_bad_value_is_found(dtype: torch.dtype, bad: float) -> None:
    good = torch.linspace(-200, 200, 70).view(7, 10)
    spoiled = good.clone()
    spoiled[3, 4] = bad
    assert find_non_finite({"a": good.to(dtype), "b": spoiled.to(dtype)}) == ["b"]


def test_names_lead_to_the_tensors() -> None:
    nan = torch.tensor([0.0, math.nan])
    optimizer = {
        "state": {0: {"exp_avg": nan, "step": torch.tensor(3.0)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    state = {"model": {"a.weight": torch.ones(2)}, "trainer": {"optimizer": optimizer, "averages": [nan, (nan,)]}}
    names = ["trainer.optimizer.state.0.exp_avg", "trainer.averages.0", "trainer.averages.1.0"]
    assert find_non_finite(state) == names
    assert describe_non_finite(state) == f"3 tensors hold NaN or infinity: {', '.join(names)}"
    assert describe_non_finite({"x": nan}) == "x holds NaN or infinity"
    assert describe_non_finite({str(i): nan for i in range(9)}).endswith(": 0, 1, 2 and 6 more")


def test_what_has_no_value_to_find_is_skipped() -> None:
    state = {
        "integers": torch.tensor([1]),
        "nothing": torch.zeros(0, 3),
        "meta": torch.zeros(2, device="meta"),
        "sparse": torch.eye(2).to_sparse(),
        "text": "nan",
        "number": math.nan,
        "none": None,
    }
    assert describe_non_finite(state) == ""
    assert describe_non_finite(None) == ""


def test_masks_and_limits_may_be_infinite() -> None:
    mask = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    meant = {
        "blocks.0.attn_mask": mask,
        "clamp.input_max": torch.tensor(math.inf),
        "clamp.input_min": torch.tensor(-math.inf),
    }
    assert find_non_finite(meant) == []
    others = {"attn_mask": torch.tensor(math.nan), "mask_head.weight": mask, "bias": torch.full((2,), math.inf)}
    assert find_non_finite(others) == list(others)
