"""Muon and AdamW as one optimizer, against torch's own, run apart."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import restored_catalogs
from engine_helpers import default_config, tiny_config, write_dataset
from model_helpers import build, tiny_cfg
from torch import Tensor, nn

from pair_detr.engine import Trainer, build_optimizer
from pair_detr.engine.muon import Muon, MuonWithAdamW, orthogonalize, split_for_muon
from pair_detr.engine.resume import ResumeError

SHAPES = [(4, 6), (6, 4), (4, 6), (5, 5), (16, 3)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_muon")


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def set_gradients(*models: list[nn.Parameter]) -> None:
    """The same ones for each list."""
    for same in zip(*models, strict=True):
        gradient = torch.randn_like(same[0])
        for parameter in same:
            parameter.grad = gradient.clone()


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (30, 5)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    """The singular vectors stay, and matrices do not change each other."""
    matrices = torch.randn(3, *shape)
    found = orthogonalize(matrices)
    for matrix, result in zip(matrices, found, strict=True):
        u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        inner = u.T @ result.double() @ vh.T
        values = inner.diagonal()[s > s.max() * 0.02]
        assert 0.6 < values.min() <= values.max() < 1.3
        assert (inner - inner.diagonal().diag()).abs().max() < 1e-3
        torch.testing.assert_close(orthogonalize(matrix[None])[0], result, atol=1e-5, rtol=1e-4)
    assert orthogonalize(torch.zeros(1, *shape)).isfinite().all()


@pytest.mark.parametrize("shape", [(64, 512), (512, 64), (64, 96)])
@pytest.mark.parametrize("rank", [3, 64])
def test_long_matrices_equal_the_iteration_in_double_precision(shape: tuple[int, int], rank: int) -> None:
    """Also of gradients of few directions, whose other singular values are rounding errors."""
    matrices = torch.randn(2, shape[0], rank) @ torch.randn(2, rank, shape[1])
    x = matrices.double()
    x = x / x.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrices).double(), x, atol=2e-5, rtol=0)


def test_equals_muon_and_adamw_apart() -> None:
    """Torch's Muon orthogonalizes in bfloat16, which is all that differs."""
    matrices, others = parameters(SHAPES), parameters([(3, 4), (7,)])
    twins = [copy.deepcopy(x) for x in (matrices, others)]
    optimizer = MuonWithAdamW(
        [
            {"params": matrices[:2], "use_muon": True, "lr": 0.02},
            {"params": others[:1], "lr": 3e-3, "use_muon": False},
            {"params": matrices[2:], "use_muon": True},
            {"params": others[1:], "weight_decay": 0.0},
        ],
        lr=0.05,
        weight_decay=0.1,
    )
    muon = torch.optim.Muon([{"params": twins[0][:2], "lr": 0.02}, {"params": twins[0][2:]}], lr=0.05, weight_decay=0.1)
    adamw = torch.optim.AdamW(
        [{"params": twins[1][:1], "lr": 3e-3}, {"params": twins[1][1:], "weight_decay": 0.0}], lr=0.05, weight_decay=0.1
    )
    for _ in range(4):
        set_gradients(matrices + others, twins[0] + twins[1])
        before = [x.detach().clone() for x in matrices]
        for stepper in (optimizer, muon, adamw):
            stepper.step()
        for found, expected, old in zip(matrices, twins[0], before, strict=True):
            step = (expected - old).norm()
            assert (found - expected).norm() < 0.1 * step
        for found, expected in zip(others, twins[1], strict=True):
            torch.testing.assert_close(found, expected)
        # What rounding has made different does not add up.
        with torch.no_grad():
            for found, expected in zip(matrices, twins[0], strict=True):
                expected.copy_(found)


def test_a_step_by_hand() -> None:
    """Nesterov momentum 0.95, decoupled weight decay, steps of tall matrices longer."""
    (matrix,) = parameters([(12, 3)])
    start, gradients = matrix.detach().clone(), [torch.randn(12, 3) for _ in range(2)]
    optimizer = Muon([matrix], lr=0.1, weight_decay=0.2)
    momentum = torch.zeros(12, 3)
    for gradient in gradients:
        matrix.grad = gradient
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = orthogonalize((0.05 * gradient + 0.95 * momentum)[None])[0]
        start = start * (1 - 0.1 * 0.2) - 0.1 * 2 * direction
    torch.testing.assert_close(matrix.detach(), start)


def test_a_convolution_steps_as_the_matrix_of_its_filters() -> None:
    (kernel,), (matrix,) = parameters([(6, 4, 3, 2)]), parameters([(6, 24)])
    matrix.data.copy_(kernel.data.flatten(1))
    optimizers = [Muon([x], lr=0.1, weight_decay=0.2, momentum=0.8) for x in (kernel, matrix)]
    for _ in range(3):
        kernel.grad = torch.randn_like(kernel)
        matrix.grad = kernel.grad.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(kernel.flatten(1), matrix)
    assert (kernel.data.flatten(1) @ kernel.data.flatten(1).T).isfinite().all()


def test_the_momentum_is_the_config_s() -> None:
    """0.5 of the last gradient and 0.5 of the new one; Nesterov looks ahead by another 0.5."""
    cfg = default_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = "MUON", 0.5, 0.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    model = nn.ModuleDict({"decoder": nn.Linear(3, 3, bias=False)})
    weight = model["decoder"].weight
    expected = weight.detach().clone()
    optimizer = build_optimizer(cfg, model)
    momentum = torch.zeros(3, 3)
    for _ in range(2):
        weight.grad = torch.randn(3, 3)
        optimizer.step()
        momentum = 0.5 * momentum + 0.5 * weight.grad
        direction = orthogonalize((0.5 * weight.grad + 0.5 * momentum)[None])[0]
        expected -= cfg.SOLVER.BASE_LR * cfg.SOLVER.MUON_MULTIPLIER * direction
    torch.testing.assert_close(weight.detach(), expected)


def test_parameters_without_a_gradient_stay() -> None:
    matrices = parameters([(3, 3), (3, 3), (4,)])
    optimizer = MuonWithAdamW([{"params": matrices[:2], "use_muon": True}, {"params": matrices[2:]}], 0.1, 0.1)
    set_gradients(matrices[:1])
    before = [x.detach().clone() for x in matrices]
    optimizer.step()
    assert not torch.equal(matrices[0], before[0])
    assert torch.equal(matrices[1], before[1])
    assert torch.equal(matrices[2], before[2])


def test_state_dicts_carry_all() -> None:
    def make() -> tuple[list[nn.Parameter], MuonWithAdamW]:
        torch.manual_seed(3)
        own = parameters([*SHAPES, (7,)])
        return own, MuonWithAdamW([{"params": own[-1:]}, {"params": own[:-1], "use_muon": True}], 0.05, 0.1, fused=True)

    (first, whole), (second, restored) = make(), make()
    torch.manual_seed(4)
    for _ in range(2):
        set_gradients(first)
        whole.step()
    with torch.no_grad():
        for a, b in zip(first, second, strict=True):
            b.copy_(a)
    state = copy.deepcopy(whole.state_dict())
    assert len(state["state"]) == len(SHAPES) + 1
    restored.load_state_dict(state)
    for _ in range(2):
        set_gradients(first, second)
        # As a scheduler does.
        for optimizer in (whole, restored):
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
            optimizer.step()
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    names = {id(x): name for name, x in model.named_parameters()}
    return {names[id(x)]: group for group in optimizer.param_groups for x in group["params"]}


@pytest.mark.parametrize("variant", ["pair_detr", "detr"])
def test_what_muon_steps_by(variant: str) -> None:
    """Matrices of encoder and decoders; never embeddings, heads, norms, biases or the backbone."""
    cfg = default_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.MUON_MULTIPLIER, cfg.SOLVER.BASE_LR = "muon", 30.0, 1e-3
    detr = {"DENSE__ENABLED": True, "QUERY_GROUPS": 2, "LOSS__CLASSIFICATION": "focal"}
    model = build(tiny_cfg(variant, **detr))
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, MuonWithAdamW)
    groups = by_name(optimizer, model)
    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}
    assert groups.keys() == trained.keys()
    for name, group in groups.items():
        expected = trained[name].dim() == 2 and bool(re.match(r"detector\.(encoder|decoder|top_left_decoder)\.", name))
        assert group["use_muon"] == expected, name
        rate = 1e-4 if ".backbone." in name else 1e-3
        assert group["lr"] == pytest.approx(rate * (30 if expected else 1)), name
    assert groups["detector.decoder.layers.0.ffn.linear1.weight"]["use_muon"]
    assert not groups["detector.query_embed.weight"]["use_muon"]


def test_what_muon_steps_by_in_a_backbone() -> None:
    """Convolutions that mix channels: not those of pixels, not depthwise ones, not norms; at a rate of their own."""
    cfg = default_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR = "MUON", 1e-3
    cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.MUON_BACKBONE_MULTIPLIER = 0.5, 40.0
    model = nn.ModuleDict(
        {
            "backbone": nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Linear(6, 6)
            ),
            "input_proj": nn.Conv2d(6, 6, 1),
            "decoder": nn.Linear(6, 6),
        }
    )
    groups = by_name(build_optimizer(cfg, model), model)
    rates = {name: group["lr"] for name, group in groups.items() if group["use_muon"]}
    assert rates == {"backbone.3.weight": pytest.approx(0.02), "decoder.weight": pytest.approx(0.02)}
    cfg.SOLVER.MUON_BACKBONE_MULTIPLIER = 4.0
    groups = by_name(build_optimizer(cfg, model), model)
    assert groups["backbone.3.weight"]["lr"] == pytest.approx(0.002)
    assert groups["decoder.weight"]["lr"] == pytest.approx(0.02)
    assert len(groups) == sum(1 for _ in model.parameters())


def test_a_backbone_without_convolutions_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A transformer's 4-D position embedding is none."""
    backbone = nn.Linear(4, 4)
    backbone.pos_embed = nn.Parameter(torch.zeros(1, 8, 8, 4))
    model = nn.ModuleDict({"backbone": backbone})
    group = {"params": list(model.parameters()), "lr": 0.5}
    assert split_for_muon([group], model, 4.0, 8.0) == [group | {"use_muon": False}]
    assert "MUON_BACKBONE_MULTIPLIER 8.0 has no effect: the backbone has no convolutions" in caplog.text


def test_splitting_leaves_nothing_empty() -> None:
    model = nn.ModuleDict({"decoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    group = {"params": [model["head"].weight], "lr": 0.5, "weight_decay": 0.3}
    assert split_for_muon([group], model, 4.0) == [group | {"use_muon": False}]
    group = {"params": [model["decoder"].weight], "lr": 0.5}
    assert split_for_muon([group], model, 4.0) == [group | {"use_muon": True, "lr": 2.0}]


def trained(dataset: dict[str, str], folder: Path, resume: bool = False, **changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    trainer = Trainer(tiny_config(dataset, folder, **{"SOLVER__OPTIMIZER": "MUON"} | changes))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer.model.state_dict()


def test_resuming_gives_the_same(dataset: dict[str, str], tmp_path: Path) -> None:
    changes = {"SOLVER__STEPS": (4,), "SOLVER__WARMUP_ITERS": 2, "SOLVER__EMA_DECAY": 0.9}
    whole = trained(dataset, tmp_path / "whole", **changes)
    trained(dataset, tmp_path / "parts", **changes, SOLVER__MAX_ITER=3)
    parts = trained(dataset, tmp_path / "parts", resume=True, **changes)
    for name, value in whole.items():
        assert torch.equal(parts[name], value), name


@pytest.mark.parametrize(("before", "after"), [("ADAMW", "MUON"), ("MUON", "ADAMW"), ("MUON", "SGD"), ("SGD", "MUON")])
@pytest.mark.parametrize("is_older", [False, True])
def test_the_state_of_another_optimizer_is_refused(
    dataset: dict[str, str], tmp_path: Path, before: str, after: str, is_older: bool
) -> None:
    """Also in checkpoints that do not say which it was."""
    trained(dataset, tmp_path, SOLVER__OPTIMIZER=before, SOLVER__MAX_ITER=1)
    if is_older:
        content = torch.load(tmp_path / "model_0000000.pth")
        del content["pair_detr"]["training"], content["trainer"]["parameters"]
        torch.save(content, tmp_path / "model_0000000.pth")
    message = "another SOLVER.OPTIMIZER" if is_older else f"SOLVER.OPTIMIZER was {before} and is {after}"
    with pytest.raises(ResumeError, match=re.escape(message)):
        trained(dataset, tmp_path, resume=True, SOLVER__OPTIMIZER=after)


@pytest.mark.parametrize(("before", "after"), [(0.0, 4.0), (4.0, 0.0)])
def test_the_state_of_a_backbone_of_the_other_is_refused(
    dataset: dict[str, str], tmp_path: Path, before: float, after: float
) -> None:
    """Momentum is no variance, and AdamW would trip over it in its first step."""
    trained(dataset, tmp_path, SOLVER__MUON_BACKBONE_MULTIPLIER=before, SOLVER__MAX_ITER=1)
    with pytest.raises(ResumeError, match=r"for Muon in one and for AdamW in the other, .*MUON_BACKBONE_MULTIPLIER"):
        trained(dataset, tmp_path, resume=True, SOLVER__MUON_BACKBONE_MULTIPLIER=after)


def test_another_rate_for_the_backbone_is_resumed(dataset: dict[str, str], tmp_path: Path) -> None:
    trained(dataset, tmp_path, SOLVER__MUON_BACKBONE_MULTIPLIER=4.0, SOLVER__MAX_ITER=1)
    state = trained(dataset, tmp_path, resume=True, SOLVER__MUON_BACKBONE_MULTIPLIER=2.0)
    assert all(x.isfinite().all() for x in state.values())
