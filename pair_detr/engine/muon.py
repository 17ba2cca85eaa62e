"""Muon for the matrices of the transformer, AdamW for all else, as one optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MuonWithAdamW(torch.optim.Optimizer):
    """:class:`torch.optim.Muon` and :class:`torch.optim.AdamW` behind one interface.

    Muon's updates are scaled to the root mean square of AdamW's, so that rates and weight decays hold for both.

    Source: Muon is by Keller Jordan; the scale is that of arXiv 2502.16982, section 2.2.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], lr: float, weight_decay: float, **adamw: Any) -> None:
        """
        Args:
            groups: of parameters, as other optimizers take them; those for Muon have ``use_muon`` True.
            lr: of groups without one of their own.
            weight_decay: likewise.
            adamw: further arguments of AdamW.
        """
        ours = [[group for group in groups if group.get("use_muon", False) is flag] for flag in (True, False)]
        defaults = {"lr": lr, "weight_decay": weight_decay}
        self._parts: list[torch.optim.Optimizer] = []
        if ours[0]:
            self._parts.append(torch.optim.Muon(ours[0], **defaults, adjust_lr_fn="match_rms_adamw"))
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

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :class:`torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._share()


def split_for_muon(groups: Sequence[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Groups of which each is either for Muon or for AdamW.

    Muon takes the matrices of encoder and decoders. Embeddings and heads are AdamW's, as its author advises, and so is
    the backbone.
    """
    matrices = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and any(part.endswith(("encoder", "decoder")) for part in name.split("."))
    }
    split = []
    for group in groups:
        for use_muon in (True, False):
            parameters = [x for x in group["params"] if (id(x) in matrices) is use_muon]
            if parameters:
                split.append({**group, "params": parameters, "use_muon": use_muon})
    return split
