"""The way from a loss to new weights."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from clarion.callbacks.hooks import CallbackList
from clarion.engine.precision import Precision
from clarion.engine.state import Progress

__all__ = ["Update"]


class Update:
    """Clears gradients, adds those of each batch's share, and steps the optimizer.

    Args:
        optimizer: The optimizer.
        precision: In which arithmetic gradients are made.
        hooks: The callbacks that hear of each optimizer step.
        progress: Where optimizer steps are counted.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        precision: Precision,
        hooks: CallbackList,
        progress: Progress,
    ) -> None:
        self.optimizer = optimizer
        self._precision = precision
        self._hooks = hooks
        self._progress = progress

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        self.optimizer.zero_grad()

    def backward(self, loss: Tensor, share: float | Tensor) -> None:
        """Add the gradients of a loss, weighted by its share of the optimizer step."""
        if isinstance(share, Tensor):
            # A batch without any valid target has share 0 and loss nan, and adds nothing.
            loss = torch.where(share > 0, loss * share.to(loss.dtype), 0.0)
        elif share != 1.0:
            loss = loss * share
        self._precision.backward(loss)

    def apply(self) -> None:
        """Step the optimizer: the gradients are complete."""
        hooks = self._hooks
        step = self._progress.step + 1
        self._precision.finish_gradients(self.optimizer)
        if "on_optimizer_step_begin" in hooks:
            hooks.fire("on_optimizer_step_begin", step)
        self._precision.step(self.optimizer)
        self._progress.step = step
        if "on_optimizer_step_end" in hooks:
            hooks.fire("on_optimizer_step_end", step)
