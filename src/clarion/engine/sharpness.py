"""Sharpness-aware minimisation: gradients taken where the loss is worst nearby."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clarion.engine.parts import Again, UpdatePart

__all__ = ["SharpnessAware"]


class SharpnessAware(UpdatePart):
    """Replaces the gradient by that at the weights a distance ``rho`` up the slope.

    The loss of all batches of the step is evaluated a second time, so a step costs twice as much.
    Batch statistics count once, and clipping acts on the second gradient.

    Args:
        network: The network, whose buffers the second evaluation must not change.
        optimizer: The optimizer.
        rho: The distance, in the Euclidean norm over all parameters.

    Source:
        Foret et al. 2021, arXiv:2010.01412, equation 2 and algorithm 1.
    """

    reevaluates = True

    def __init__(self, network: nn.Module, optimizer: Optimizer, rho: float) -> None:
        self._network = network
        self._optimizer = optimizer
        self._rho = rho

    def before_step(self, step: int, again: Again | None) -> None:
        """Climb, take the gradient there, and come back; nothing is read on the host."""
        assert again is not None
        parameters: list[Any] = [
            p for group in self._optimizer.param_groups for p in group["params"]
        ]
        parameters = [p for p in parameters if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        norms = torch._foreach_norm(gradients)
        norm = torch.linalg.vector_norm(torch.stack([one.to(norms[0].device) for one in norms]))
        scale = self._rho / (norm + 1e-12)
        weights = [p.data for p in parameters]
        before = [weight.clone() for weight in weights]
        buffers = [buffer for buffer in self._network.buffers() if buffer is not None]
        counted = [buffer.clone() for buffer in buffers]
        climb = [gradient * scale.to(gradient.device) for gradient in gradients]
        torch._foreach_add_(weights, climb)
        try:
            again()
        finally:
            _restore(weights, before)
            _restore(buffers, counted)


def _restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
