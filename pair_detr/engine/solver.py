"""Optimizer, learning rates by parameter group and by iteration, gradient clipping, and schedules in epochs."""

import itertools
import logging
from collections.abc import Callable

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as detectron2_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import nn

from pair_detr.config.choices import STABLE_DECAY
from pair_detr.engine.muon import MuonWithAdamW, split_for_muon

logger = logging.getLogger(__name__)

_OPTIMIZERS = {"ADAMW": torch.optim.AdamW, "MUON": MuonWithAdamW, "SGD": torch.optim.SGD}
_FUSED_DEVICES = ("cuda", "cpu")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer that ``cfg.SOLVER`` describes.

    Learning rates are ``BASE_LR``, times ``BACKBONE_MULTIPLIER`` below a module named ``backbone``, and times
    ``BIAS_LR_FACTOR`` for biases. With ``CLIP_GRADIENTS`` enabled, ``step`` clips before it updates, so the gradients
    have to be unscaled by then (see :class:`pair_detr.engine.train_loop.AutocastTrainer`).

    Raises:
        ValueError: ``SOLVER.OPTIMIZER`` or ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` is unknown, or nothing is trainable.
    """
    solver = cfg.SOLVER

    def learning_rate_factor(name: str) -> float:
        of_module = solver.BACKBONE_MULTIPLIER if "backbone" in name.split(".") else 1.0
        return of_module * (solver.BIAS_LR_FACTOR if name.endswith(".bias") else 1.0)

    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=learning_rate_factor,
    )
    if not groups:
        raise ValueError("The model has no trainable parameters. Lower MODEL.BACKBONE.FREEZE_AT.")
    name = solver.OPTIMIZER.upper()
    if name not in _OPTIMIZERS:
        raise ValueError(f'SOLVER.OPTIMIZER is "{solver.OPTIMIZER}"; choose one of {", ".join(_OPTIMIZERS)}.')
    optimizer_type = _OPTIMIZERS[name]
    if name == "MUON":
        groups = split_for_muon(groups, model, solver.MUON_MULTIPLIER, solver.MUON_BACKBONE_MULTIPLIER)
    if name == "SGD":
        arguments = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV, "foreach": True}
    else:
        devices = {parameter.device.type for group in groups for parameter in group["params"]}
        arguments = {"fused": devices.issubset(_FUSED_DEVICES)}
        if name == "MUON":
            arguments["momentum"] = solver.MOMENTUM
    return _with_clipping(cfg, optimizer_type)(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **arguments)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Builds what ``SOLVER.LR_SCHEDULER_NAME`` names: one of Detectron2's, or "WarmupStableDecayLR".

    This one keeps ``BASE_LR`` until the first of ``SOLVER.STEPS``, and then goes down to ``BASE_LR_END`` on a line
    (Hu et al., MiniCPM, arXiv 2404.06395, section 4).
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != STABLE_DECAY:
        return detectron2_lr_scheduler(cfg, optimizer)
    # Not fvcore's constant one, which ends before the last step does.
    schedule: ParamScheduler = LinearParamScheduler(1, 1)
    if solver.STEPS and solver.STEPS[0] < solver.MAX_ITER:
        stable = solver.STEPS[0] / solver.MAX_ITER
        decay = LinearParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
        schedule = CompositeParamScheduler([schedule, decay], [stable, 1 - stable], ["rescaled"] * 2)
    else:
        # Detectron2 says so of its schedule in steps, too.
        logger.warning(
            "SOLVER.STEPS %s has no step before SOLVER.MAX_ITER %d: the learning rate stays as it is.",
            tuple(solver.STEPS),
            solver.MAX_ITER,
        )
    warmup = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    schedule = WarmupParamScheduler(
        schedule, solver.WARMUP_FACTOR, warmup, solver.WARMUP_METHOD, solver.RESCALE_INTERVAL
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


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


_SOLVER_KEYS = ("MAX_ITER", "STEPS", "CHECKPOINT_PERIOD")


def warn_of_ignored_iterations(cfg: CfgNode) -> None:
    """Warns of iterations that were set, but which ``SOLVER.EPOCHS`` replaces; call it before anything scales them.

    :func:`pair_detr.config_files.load_config` lets the later of the two count; left are those that a config brings
    along for epochs that were set after them, and those that a program has set in a config that counts in epochs.
    """
    if cfg.SOLVER.EPOCHS.MAX == 0:
        return
    default = get_cfg()
    ignored = [f"SOLVER.{key}" for key in _SOLVER_KEYS if cfg.SOLVER[key] != default.SOLVER[key]]
    if cfg.TEST.EVAL_PERIOD != default.TEST.EVAL_PERIOD:
        ignored.append("TEST.EVAL_PERIOD")
    if ignored:
        logger.warning(
            "Ignored, as SOLVER.EPOCHS.MAX is %s: %s. Set SOLVER.EPOCHS.MAX 0 to count in iterations, or the keys "
            "under SOLVER.EPOCHS.",
            cfg.SOLVER.EPOCHS.MAX,
            ", ".join(ignored),
        )


def resolve_epochs(cfg: CfgNode, num_images: int) -> CfgNode:
    """Turns ``SOLVER.EPOCHS`` into iterations.

    Args:
        cfg: config; it is returned unchanged if ``SOLVER.EPOCHS.MAX`` is 0.
        num_images: images of the training set, after filtering. An epoch is ``num_images / IMS_PER_BATCH`` iterations;
            positions in the schedule are rounded to whole ones, but an epoch is not, so a long schedule does not drift.

    Returns:
        Copy of ``cfg`` with MAX_ITER, STEPS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD set, frozen as ``cfg`` was.

    Raises:
        ValueError: there are no images, or the steps do not ascend within the training.
    """
    epochs = cfg.SOLVER.EPOCHS
    if epochs.MAX == 0 and cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(f"SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}; it must be positive.")
    if epochs.MAX == 0:
        return cfg
    if num_images < 1:
        raise ValueError(f"No training images in DATASETS.TRAIN {cfg.DATASETS.TRAIN}.")
    steps = list(epochs.STEPS)
    if epochs.MAX < 0 or steps != sorted(set(steps)) or any(not 0 < step < epochs.MAX for step in steps):
        raise ValueError(
            f"SOLVER.EPOCHS.STEPS {steps} must ascend and lie between 0 and SOLVER.EPOCHS.MAX ({epochs.MAX})."
        )

    def iterations(number_of_epochs: float) -> int:
        return max(1, round(number_of_epochs * num_images / cfg.SOLVER.IMS_PER_BATCH))

    resolved = cfg.clone()
    resolved.defrost()
    max_iter = iterations(epochs.MAX)
    resolved.SOLVER.MAX_ITER = max_iter
    resolved.SOLVER.STEPS = tuple(iterations(step) for step in steps)
    # A period that is never reached: the end of the training writes a checkpoint of its own.
    never = max_iter + 1
    resolved.SOLVER.CHECKPOINT_PERIOD = iterations(epochs.CHECKPOINT_PERIOD) if epochs.CHECKPOINT_PERIOD > 0 else never
    resolved.TEST.EVAL_PERIOD = iterations(epochs.EVAL_PERIOD) if epochs.EVAL_PERIOD > 0 else 0
    logger.info(
        "%d epochs of %d images in batches of %d: %d iterations, learning rate steps at %s.",
        epochs.MAX,
        num_images,
        cfg.SOLVER.IMS_PER_BATCH,
        max_iter,
        resolved.SOLVER.STEPS,
    )
    if cfg.is_frozen():
        resolved.freeze()
    return resolved
