"""An exponential moving average of the weights, which is evaluated and saved in the place of the last ones."""

import copy
from itertools import chain
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn


class WeightAverage(HookBase):
    """Averages the weights after each step; register it before the hooks that evaluate and save.

    The decay starts low, so that the average soon forgets the random weights: after ``n`` steps it is at most
    ``(1 + n) / (10 + n)``, as in TensorFlow's ``ExponentialMovingAverage``. Statistics of batch norms are averaged
    alike. All processes have the same weights, and so the same average.

    Unlike :class:`torch.optim.swa_utils.AveragedModel`, it counts the steps on the host, which waits for no device.
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
        self._model = copy.deepcopy(model)

    @property
    def model(self) -> nn.Module:
        """A copy of the model with the averaged weights."""
        return self._model

    @torch.no_grad()
    def after_step(self) -> None:
        # The first step's weights are taken as they are.
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps)) if self._steps else 0.0
        averaged, current = (list(chain(x.parameters(), x.buffers())) for x in (self._model, self._source))
        numbers = [i for i, x in enumerate(averaged) if x.is_floating_point()]
        torch._foreach_lerp_([averaged[i] for i in numbers], [current[i] for i in numbers], 1 - decay)
        # Those that count batches.
        for i in set(range(len(averaged))).difference(numbers):
            averaged[i].copy_(current[i])
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and how many steps they are of."""
        return {"weights": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues an average."""
        self.model.load_state_dict(state["weights"])
        self._steps = state["steps"]
