import pytest
import torch
from engine_helpers import default_config
from torch import nn

from pair_detr.engine import build_optimizer


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.detector = nn.Module()
        self.detector.backbone = nn.Linear(3, 3)
        self.detector.norm = nn.LayerNorm(3)
        self.detector.head = nn.Linear(3, 2)
        self.detector.frozen = nn.Linear(3, 2).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.detector.head(self.detector.norm(self.detector.backbone(x)))


def settings(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[float, float]:
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group["lr"], group["weight_decay"]


def test_groups() -> None:
    cfg, model = default_config(), Model()
    cfg.SOLVER.BASE_LR = 2e-3
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    cfg.SOLVER.BIAS_LR_FACTOR = 4.0
    cfg.SOLVER.WEIGHT_DECAY = 0.1
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.2
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    parts = model.detector
    assert settings(optimizer, parts.backbone.weight) == pytest.approx((1e-3, 0.1))
    assert settings(optimizer, parts.backbone.bias) == pytest.approx((4e-3, 0.1))
    assert settings(optimizer, parts.head.weight) == pytest.approx((2e-3, 0.1))
    assert settings(optimizer, parts.head.bias) == pytest.approx((8e-3, 0.1))
    assert settings(optimizer, parts.norm.weight) == pytest.approx((2e-3, 0.2))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == 6 and not any(p is parts.frozen.weight for p in trained)


def test_default_is_adamw_of_torch() -> None:
    """Two steps with clipping, against torch's own clipping and (unfused) AdamW."""
    cfg, model, reference = default_config(), Model(), Model()
    reference.load_state_dict(model.state_dict())
    cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER = 1e-2, 1.0
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1e-3
    optimizer = build_optimizer(cfg, model)
    trained = [p for p in reference.parameters() if p.requires_grad]
    expected = torch.optim.AdamW(trained, lr=1e-2, weight_decay=1e-4, fused=False, foreach=False)
    for step in range(2):
        x = torch.randn(5, 3) * 10**step
        for of, stepper in ((model, optimizer), (reference, expected)):
            stepper.zero_grad()
            of(x).square().sum().backward()
            if of is reference:
                norm = torch.sqrt(sum(p.grad.square().sum() for p in trained))
                assert norm > 1e-3
                for p in trained:
                    p.grad *= 1e-3 / norm
            stepper.step()
    for actual, wanted in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("clip_type", "clipped"),
    [("full_model", [0.6, 0.8]), ("norm", [1.0, 1.0]), ("value", [1.0, 1.0]), (None, [3.0, 4.0])],
)
def test_clipping(clip_type: str | None, clipped: list[float]) -> None:
    """Gradients 3 and 4 of two parameters; together their norm is 5."""
    model = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    cfg = default_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = "SGD", 1.0, 0.0, 0.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = clip_type is not None
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type or "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    optimizer = build_optimizer(cfg, model)
    (3 * model[0] + 4 * model[1]).sum().backward()
    optimizer.step()
    assert [-p.item() for p in model] == pytest.approx(clipped, rel=1e-4)


@pytest.mark.parametrize(
    ("key", "value"), [("SOLVER.OPTIMIZER", "LION"), ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "everything")]
)
def test_unknown_choice(key: str, value: str) -> None:
    cfg = default_config()
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=f'{key} is "{value}"; choose'):
        build_optimizer(cfg, Model())


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        build_optimizer(default_config(), Model().requires_grad_(False))
