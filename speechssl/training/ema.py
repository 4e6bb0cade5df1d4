"""An exponential moving average of the weights, kept in float32, updated once per optimiser step.

In: a module after each update. Out: the averaged weights in the module's place while it is validated or exported.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """``average <- decay * average + (1 - decay) * weights`` over all parameters of ``module``.

    Early on the decay is ``min(decay, (1 + n) / (10 + n))`` after ``n`` updates, so that random initial weights are
    forgotten within the first tenth of the window instead of lingering for ``1 / (1 - decay)`` updates.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, got {decay}")
        self.module = module
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().float().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights; call once after each optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [value.detach().float() for _, value in self.module.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights, and the weights back afterwards."""
        kept = {name: value.detach().clone() for name, value in self.module.named_parameters()}
        self.copy_to_module()
        try:
            yield
        finally:
            self._copy(kept)

    def copy_to_module(self) -> None:
        """Overwrite the weights with their average."""
        self._copy(self.average)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint needs."""
        return {"updates": self.updates, "average": dict(self.average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take back what ``state_dict`` gave; names and shapes must be those of the module."""
        average, updates = state["average"], state["updates"]
        if not isinstance(average, dict) or not isinstance(updates, int) or average.keys() != self.average.keys():
            raise ValueError("the averaged weights belong to another model")
        for name, value in self.average.items():
            value.copy_(average[name])
        self.updates = updates
