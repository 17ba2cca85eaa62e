"""The state of an optimizer for one whose parameters are grouped in another way, or have other rates."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.solver import LRMultiplier
from torch import nn

from pair_detr.utils.messages import counted, join_some

_RATES = {"initial_lr": "learning rate", "weight_decay": "weight decay", "momentum": "momentum"}


class OtherOptimizerError(ValueError):
    """A state is of another optimizer, or of one for other parameters."""


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The names of an optimizer's parameters, in the order of its groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def fit_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str], saved: dict[str, Any], saved_names: Sequence[str] | None
) -> dict[str, Any]:
    """A state dict with what an optimizer knows about its parameters, and the rates and groups of another one.

    Args:
        optimizer: the one to load it into, as the config describes it; its parameters have ``names``.
        saved: state dict of the other one.
        saved_names: of its parameters; None for a checkpoint that does not tell them, whose groups have to be alike.

    Raises:
        OtherOptimizerError: they are of different kinds, or for different parameters.
    """
    groups, saved_groups = optimizer.state_dict()["param_groups"], saved["param_groups"]
    # The one is of Adam and its kin, the other of Muon.
    if any(any(key in x for x in groups) != any(key in x for x in saved_groups) for key in ("betas", "use_muon")):
        raise OtherOptimizerError("it has the state of another SOLVER.OPTIMIZER")
    if saved_names is None:
        sizes, saved_sizes = ([len(group["params"]) for group in of] for of in (groups, saved_groups))
        if sizes != saved_sizes:
            raise OtherOptimizerError(
                f"it has the state of an optimizer for groups of {saved_sizes} parameters, and the config's are of "
                f"{sizes}: MODEL.BACKBONE.FREEZE_AT, SOLVER.BACKBONE_MULTIPLIER, WEIGHT_DECAY_NORM or another key "
                "that groups or freezes parameters has another value"
            )
        saved_names = names
    if differing := sorted({*names} ^ {*saved_names}):
        raise OtherOptimizerError(
            f"{counted(len(differing), 'parameter is', 'parameters are')} trained in one and not in the other, such "
            f"as {join_some(differing, 3)}"
        )
    muon, saved_muon = _for_muon(groups, names), _for_muon(saved_groups, saved_names)
    if moved := sorted(muon ^ saved_muon):
        raise OtherOptimizerError(
            f"{counted(len(moved), 'parameter is', 'parameters are')} for Muon in one and for AdamW in the other, such "
            f"as {join_some(moved, 3)}: SOLVER.MUON_BACKBONE_MULTIPLIER is 0 in one of them"
        )
    saved_index = dict(zip(saved_names, (i for group in saved_groups for i in group["params"]), strict=True))
    index = dict(zip(names, (i for group in groups for i in group["params"]), strict=True))
    states = saved["state"]
    state = {i: states[saved_index[name]] for name, i in index.items() if saved_index[name] in states}
    return {"state": state, "param_groups": groups}


def _for_muon(groups: Sequence[dict[str, Any]], names: Sequence[str]) -> set[str]:
    flags = [group.get("use_muon", False) for group in groups for _ in group["params"]]
    return {name for name, flag in zip(names, flags, strict=True) if flag}


def describe_rates(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> list[str]:
    """How the rates of an optimizer differ from those in the state dict of another one, group by group."""
    return [
        f"{name} of {counted(len(group['params']), 'parameter')}: {before[key]} -> {group[key]}"
        for group, before in zip(optimizer.param_groups, saved["param_groups"], strict=True)
        for key, name in _RATES.items()
        if key in group and key in before and group[key] != before[key]
    ]


def follow_schedule(scheduler: LRMultiplier, optimizer: torch.optim.Optimizer) -> None:
    """Makes the learning rates those that a schedule of the optimizer's own rates has at its iteration."""
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
