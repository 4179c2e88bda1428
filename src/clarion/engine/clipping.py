"""Gradients kept small, before the optimizer sees them."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from clarion.engine.parts import Again, UpdatePart

__all__ = ["ClipGradients"]


class ClipGradients(UpdatePart):
    """Clips the complete gradient of a step by value, by norm, or both, in this order.

    Args:
        optimizer: The optimizer, whose parameters' gradients count as one vector.
        max_norm: The limit of its Euclidean norm; None for none.
        max_value: The limit of the absolute value of its elements; None for none.

    Attributes:
        norm: The norm at the last step before it was clipped, shape (), on the device; None
            before the first step, and without ``max_norm``.
    """

    reads_gradients = True

    def __init__(
        self, optimizer: Optimizer, max_norm: float | None, max_value: float | None
    ) -> None:
        self._optimizer = optimizer
        self._max_norm = max_norm
        self._max_value = max_value
        self.norm: Tensor | None = None

    def before_step(self, step: int, again: Again | None) -> None:
        """Clip; nothing is read on the host."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if self._max_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self._max_value)
        if self._max_norm is not None:
            self.norm = torch.nn.utils.clip_grad_norm_(parameters, self._max_norm)
