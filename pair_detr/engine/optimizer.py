"""Optimizer with learning rates by parameter group and clipping of the full gradient."""

import itertools
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

_FUSED_DEVICES = ("cuda", "cpu")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer that ``cfg.SOLVER`` describes.

    Learning rates are ``BASE_LR``, times ``BACKBONE_MULTIPLIER`` below a module named ``backbone``, and times
    ``BIAS_LR_FACTOR`` for biases. With ``CLIP_GRADIENTS`` enabled, ``step`` clips before it updates, so the gradients
    have to be unscaled by then (see :class:`pair_detr.engine.amp.AutocastTrainer`).

    Raises:
        ValueError: ``SOLVER.OPTIMIZER`` or ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` is unknown, or nothing is trainable.
    """
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=_learning_rate_factor(solver),
    )
    if not groups:
        raise ValueError("The model has no trainable parameters. Lower MODEL.BACKBONE.FREEZE_AT.")
    name = solver.OPTIMIZER.upper()
    if name not in _OPTIMIZERS:
        raise ValueError(f'SOLVER.OPTIMIZER is "{solver.OPTIMIZER}"; choose one of {", ".join(_OPTIMIZERS)}.')
    optimizer_type, arguments = _OPTIMIZERS[name](cfg, groups)
    return _with_clipping(cfg, optimizer_type)(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **arguments)


def _learning_rate_factor(solver: CfgNode) -> Callable[[str], float]:
    def factor(name: str) -> float:
        of_module = solver.BACKBONE_MULTIPLIER if "backbone" in name.split(".") else 1.0
        return of_module * (solver.BIAS_LR_FACTOR if name.endswith(".bias") else 1.0)

    return factor


def _adamw(cfg: CfgNode, groups: list[dict]) -> tuple[type[torch.optim.Optimizer], dict]:
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW, {"fused": devices.issubset(_FUSED_DEVICES)}


def _sgd(cfg: CfgNode, groups: list[dict]) -> tuple[type[torch.optim.Optimizer], dict]:
    return torch.optim.SGD, {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV, "foreach": True}


_OPTIMIZERS = {"ADAMW": _adamw, "SGD": _sgd}


def _with_clipping(cfg: CfgNode, optimizer_type: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer_type
    if clip.CLIP_TYPE in ("value", "norm"):
        return maybe_add_gradient_clipping(cfg, optimizer_type)
    if clip.CLIP_TYPE != "full_model":
        raise ValueError(
            f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "{clip.CLIP_TYPE}"; choose "full_model" (norm of all gradients '
            'together), or "norm" or "value" (each parameter alone).'
        )
    max_norm, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE

    class FullModelClipping(optimizer_type):
        def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
            parameters = itertools.chain.from_iterable(group["params"] for group in self.param_groups)
            nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
            return super().step(closure)

    FullModelClipping.__name__ = f"{optimizer_type.__name__}WithFullModelClipping"
    return FullModelClipping
