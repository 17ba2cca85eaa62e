"""Muon for the matrices of the transformer, and maybe the backbone's, AdamW for all else, as one optimizer."""

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Coefficients of the quintic iteration: the author's, whose slope at zero is the steepest.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
# Those of pixels; depthwise convolutions have one.
_FEW_CHANNELS = 3


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthogonal rows or columns, roughly: their singular values end between 0.7 and 1.2.

    Args:
        matrices: (N, A, B).

    Returns:
        (N, A, B) of the same type. It is computed in bfloat16 on GPUs, which suffices, and in fp32 on CPUs, where it is
        several times faster.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x.float() if x.device.type == "cpu" else x.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.dtype == torch.float32 and x.shape[2] >= 2 * x.shape[1]:
        x = _factor(x @ x.mT) @ x
    else:
        a, b, c = _COEFFICIENTS
        for _ in range(_STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


def _factor(gram: Tensor) -> Tensor:
    """(N, A, A) what the iteration multiplies matrices by that have the given products with themselves.

    It needs these products alone, which takes half the time where a matrix is much longer than wide. In half precision
    they are not exact enough.
    """
    a, b, c = _COEFFICIENTS
    identity = torch.eye(gram.shape[1], device=gram.device)
    total: Tensor | None = None
    for step in range(_STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        total = factor if total is None else factor @ total
        if step + 1 < _STEPS:
            gram = factor @ gram @ factor
    return total


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalized, for matrices and for convolutions, which are matrices of filters.

    As :class:`torch.optim.Muon`, but matrices of the same shape are orthogonalized together, and in fp32 on CPUs.

    Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = sorted((x for x in group["params"] if x.grad is not None), key=lambda x: x.shape)
            for shape, same in groupby(trained, key=lambda x: x.shape):
                parameters = list(same)
                step = self._directions(parameters, group["momentum"])
                scale = group["lr"] * max(1, shape[0] / shape[1:].numel()) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(step.unbind()), alpha=-scale)
        return loss

    def _directions(self, parameters: Sequence[Tensor], momentum: float) -> Tensor:
        """(N, A, ...) orthogonalized Nesterov momentum of parameters of the same shape."""
        gradients = [x.grad for x in parameters]
        buffers = [self.state[x].setdefault("momentum_buffer", torch.zeros_like(x)) for x in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        step = torch.stack(torch._foreach_lerp(gradients, buffers, momentum))
        return orthogonalize(step.flatten(2)).view_as(step)


class MuonWithAdamW(torch.optim.Optimizer):
    """:class:`Muon` and :class:`torch.optim.AdamW` behind one interface."""

    def __init__(
        self, groups: Sequence[dict[str, Any]], lr: float, weight_decay: float, momentum: float = 0.95, **adamw: Any
    ) -> None:
        """
        Args:
            groups: of parameters, as other optimizers take them; those for Muon have ``use_muon`` True, see
                :func:`split_for_muon`.
            lr: of groups without one of their own.
            weight_decay: likewise.
            momentum: Muon's.
            adamw: further arguments of AdamW.
        """
        ours = [[group for group in groups if group.get("use_muon", False) is flag] for flag in (True, False)]
        defaults = {"lr": lr, "weight_decay": weight_decay}
        self._parts: list[torch.optim.Optimizer] = []
        if ours[0]:
            self._parts.append(Muon(ours[0], **defaults, momentum=momentum))
        if ours[1]:
            self._parts.append(torch.optim.AdamW(ours[1], **defaults, **adamw))
        super().__init__([group for part in self._parts for group in part.param_groups], defaults)
        self._share()

    def _share(self) -> None:
        """Lets both parts work on the groups and the state of the whole."""
        start = 0
        for part in self._parts:
            stop = start + len(part.param_groups)
            part.param_groups = self.param_groups[start:stop]
            part.state = self.state
            start = stop

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of both."""
        first, *others = self._parts
        loss = first.step(closure)
        for part in others:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :class:`torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._share()


def split_for_muon(
    groups: Sequence[dict[str, Any]], model: nn.Module, multiplier: float, backbone_multiplier: float = 0.0
) -> list[dict[str, Any]]:
    """Groups of which each is either for Muon or for AdamW.

    Muon takes the matrices of encoder and decoders, and the convolutions of the backbone if it is asked to. Embeddings
    and heads are AdamW's, as its author advises; and so are a backbone's linear layers, and its convolutions of pixels
    and depthwise ones, which mix too few channels to be orthogonal.

    Args:
        groups: of all parameters.
        model: that has them.
        multiplier: of the learning rate of those for Muon.
        backbone_multiplier: the same of the backbone's; 0 leaves them to AdamW.
    """
    multipliers = {
        id(parameter): multiplier
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and any(part.endswith(("encoder", "decoder")) for part in name.split("."))
    }
    if backbone_multiplier:
        convolutions = [
            module.weight
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d)
            and "backbone" in name.split(".")
            and module.weight.shape[1] > _FEW_CHANNELS
        ]
        if not convolutions:
            logger.warning(
                "SOLVER.MUON_BACKBONE_MULTIPLIER %s has no effect: the backbone has no convolutions that mix channels.",
                backbone_multiplier,
            )
        multipliers |= {id(weight): backbone_multiplier for weight in convolutions}
    split = []
    for group in groups:
        for factor in dict.fromkeys((multiplier, backbone_multiplier, None)):
            parameters = [x for x in group["params"] if multipliers.get(id(x)) == factor]
            if parameters:
                use_muon = factor is not None
                rate = group["lr"] * (factor if use_muon else 1)
                split.append({**group, "params": parameters, "use_muon": use_muon, "lr": rate})
    return split
