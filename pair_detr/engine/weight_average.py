"""An exponential moving average of the weights, which is evaluated and saved in the place of the last ones."""

from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(HookBase):
    """Averages the weights after each step; register it before the hooks that evaluate and save.

    The decay starts low, so that the average soon forgets the random weights: after ``n`` steps it is at most
    ``(1 + n) / (10 + n)``, as in TensorFlow's ``ExponentialMovingAverage``. Statistics of batch norms are averaged
    alike. All processes have the same weights, and so the same average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: whose weights are averaged, itself and not a wrapper for several processes.
            decay: of the average in one step.
        """
        self._source = model
        self._decay = decay
        self._steps = 0
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """A copy of the model with the averaged weights."""
        return self._averaged.module

    def _average(self, averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        get_ema_multi_avg_fn(decay)(averaged, current, 0)

    @torch.no_grad()
    def after_step(self) -> None:
        self._averaged.update_parameters(self._source)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and how many steps they are of."""
        return {"weights": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues an average."""
        self.model.load_state_dict(state["weights"])
        self._steps = state["steps"]
        # Its first update would copy the weights.
        self._averaged.n_averaged.fill_(self._steps)
