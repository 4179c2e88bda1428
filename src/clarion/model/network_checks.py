"""What a forward and a backward pass tell of a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clarion.model.findings import Finding

__all__ = ["Observer"]

_RELUS = (nn.ReLU, nn.ReLU6)
_SATURATION = {nn.Sigmoid: (0.01, 0.99), nn.Tanh: (-0.99, 0.99), nn.Softmax: (1e-3, 0.999)}
_MOSTLY = 0.9
_EXPLODES = 1e2  # a step of the size of the gradient would be a hundred times the weights
_VANISHES = 1e-7  # as against the layer with the largest gradient


class Observer:
    """Looks at the layers of a network while batches run through it.

    Args:
        network: The network. Activations that are functions and not layers are not seen.

    Attributes:
        layers: How many layers there are.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._names = {
            module: name or "the network"
            for name, module in network.named_modules()
            if not any(module.children())
        }
        self.layers = len(self._names)
        self._called: set[nn.Module] = set()
        self._alive: dict[nn.Module, Tensor] = {}
        self._saturated: dict[nn.Module, list[Tensor]] = {}
        self._finite: dict[nn.Module, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every layer's output inside."""
        handles = [module.register_forward_hook(self._see) for module in self._names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def findings(self, optimizer: Any) -> list[Finding]:
        """Return what was seen; the gradients are those of the last backward pass.

        Args:
            optimizer: The model's optimizer, or None.
        """
        return [
            *self._check_outputs(),
            *self._check_activations(),
            *self._check_parameters(optimizer),
            *self._check_gradients(),
        ]

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._called.add(module)
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 1:
            return
        output = output.detach()
        finite = output.isfinite().all()
        self._finite[module] = self._finite.get(module, finite) & finite
        if isinstance(module, _RELUS) and output.ndim > 1:
            unit = -1 if output.ndim == 3 else 1  # (N, F), (N, T, D) or (N, C, H, W)
            alive = (output != 0).movedim(unit, 0).flatten(1).any(1)
            before = self._alive.get(module)
            if before is None or before.shape == alive.shape:
                self._alive[module] = alive if before is None else before | alive
        limits = _SATURATION.get(type(module))
        if limits is not None:
            flat = (output < limits[0]) | (output > limits[1])
            self._saturated.setdefault(module, []).append(flat.double().mean())

    def _check_outputs(self) -> Iterator[Finding]:
        for module, finite in self._finite.items():
            if not finite:
                yield Finding(
                    "nan or infinity",
                    self._named(module),
                    "its output is not finite, the first in the network.",
                    "Look for divisions, logarithms and roots before it, and for inputs that are "
                    "not finite.",
                )
                return

    def _check_activations(self) -> Iterator[Finding]:
        for module, alive in self._alive.items():
            dead = int((~alive).sum())
            if dead:
                yield Finding(
                    "dead units",
                    self._named(module),
                    f"{dead} of {len(alive)} units are 0 for every example.",
                    "Lower the learning rate, normalise the inputs, or use LeakyReLU or GELU.",
                )
        for module, shares in self._saturated.items():
            share = float(torch.stack(shares).mean())
            if share > _MOSTLY:
                yield Finding(
                    "saturation",
                    self._named(module),
                    f"{share:.0%} of its outputs lie at their limits, where gradients are close "
                    "to 0.",
                    "Normalise what goes in, or begin with smaller weights.",
                )

    def _check_parameters(self, optimizer: Any) -> Iterator[Finding]:
        groups = getattr(optimizer, "param_groups", None) or []
        updated = {parameter for group in groups for parameter in group["params"]}
        unused, foreign = [], []
        for name, parameter in self._network.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                unused.append(name)
            elif groups and parameter not in updated:
                foreign.append(name)
        if unused:
            yield Finding(
                "unused parameters",
                _listed(unused),
                f"{len(unused)} parameters had no part in the loss, so they never learn.",
                "Call their layers in forward, remove them, or freeze them.",
            )
        if foreign:
            yield Finding(
                "not updated",
                _listed(foreign),
                f"{len(foreign)} parameters have a gradient, and the optimizer does not know them.",
                "Build the optimizer from network.parameters().",
            )

    def _check_gradients(self) -> Iterator[Finding]:
        norms: dict[nn.Module, tuple[float, float]] = {}
        for module in self._names:
            pairs = [(p.grad, p) for p in module.parameters() if p.grad is not None]
            if pairs:
                gradients, weights = zip(*pairs, strict=True)
                norms[module] = (_norm(gradients), _norm(weights))
        largest = max((norm for norm, _ in norms.values()), default=0.0)
        for module, (norm, weight) in norms.items():
            if not norm < float("inf") or norm > _EXPLODES * max(weight, 1.0):
                yield Finding(
                    "exploding gradient",
                    self._named(module),
                    f"its gradient has the norm {norm:.3g}, its weights {weight:.3g}.",
                    "Clip gradients, lower the learning rate, and check the scale of inputs and "
                    "targets.",
                )
            elif norm <= _VANISHES * largest or norm == 0:
                yield Finding(
                    "vanishing gradient",
                    self._named(module),
                    f"its gradient has the norm {norm:.3g}, that of the largest is {largest:.3g}.",
                    "Use normalisation layers, residual connections, or other activations.",
                )

    def _named(self, module: nn.Module) -> str:
        return f"{self._names[module]} ({type(module).__name__})"


def _norm(tensors: Any) -> float:
    norms = [tensor.detach().double().norm() for tensor in tensors]
    return float(torch.stack([norm.cpu() for norm in norms]).norm())


def _listed(names: list[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
