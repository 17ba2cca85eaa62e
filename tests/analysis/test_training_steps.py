"""The training step that is timed, and the share of the matching in it."""

import itertools

import pytest
import torch
from model_helpers import build, make_batch, tiny_cfg, tiny_resnet_cfg
from torch import nn

from pair_detr.analysis.backends import Backend
from pair_detr.analysis.training_steps import matcher_share, prepare_training


def parameters_of(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", ["torch", "torch:bf16", "transformers", "transformers:bf16"])
def test_a_step_trains(name: str) -> None:
    if "transformers" in name:
        pytest.importorskip("transformers")
    cfg = tiny_resnet_cfg("conditional_detr")
    cfg.SOLVER.OPTIMIZER = "MUON"
    model, make = prepare_training(cfg, Backend.parse(name))
    assert model.training
    before = parameters_of(model)
    steps = [make(make_batch([(64, 64)] * images, [2] * images)) for images in (1, 2)]
    steps[0]()
    between = parameters_of(model)
    steps[1]()
    assert any(not a.equal(b) for a, b in zip(before, between, strict=True))
    assert any(not a.equal(b) for a, b in zip(between, parameters_of(model), strict=True))
    assert all(p.isfinite().all() for p in model.parameters())


def test_matching_is_told_apart_by_a_clock_that_counts() -> None:
    """Every look at the clock is a second: one in each call of the matcher, three in a step with the looks around."""
    model = build(tiny_cfg()).train()
    matcher, batch = model.criterion.matcher, make_batch([(32, 48)] * 2, [2, 1])

    def step() -> None:
        next(ticks)
        sum(model(batch).values())

    ticks = itertools.count(float("1"))
    share = matcher_share(step, model.criterion, "cpu", steps=4, clock=lambda: next(ticks))
    # From 1 to 14: 4 steps of a tick and 2 looks each, and the last look.
    assert share == pytest.approx(4 / 13)
    assert model.criterion.matcher is matcher


def test_the_matcher_is_put_back_after_an_error() -> None:
    model = build(tiny_cfg()).train()
    matcher = model.criterion.matcher

    def step() -> None:
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        matcher_share(step, model.criterion, "cpu")
    assert model.criterion.matcher is matcher


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["torch", "compiled", "cudagraphs"])
def test_a_step_on_a_gpu(runtime: str) -> None:
    cfg = tiny_resnet_cfg("conditional_detr")
    cfg.MODEL.DEVICE = "cuda"
    model, make = prepare_training(cfg, Backend(runtime, "bf16"))
    step = make(make_batch([(64, 64)] * 2, [2, 2]))
    before = parameters_of(model)
    for _ in range(4):
        step()
    assert any(not a.equal(b) for a, b in zip(before, parameters_of(model), strict=True))
    assert 0 < matcher_share(step, model.criterion, "cuda") < 1
