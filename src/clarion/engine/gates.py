"""Optimizer steps that a flag on the device takes or leaves out."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from clarion.engine.precision import Precision

__all__ = [
    "HostCheck",
    "RunningStatistics",
    "gated_step",
    "nonfinite_gradients",
    "present_gradients",
]

_GATED = (Adam, AdamW, SGD, Adagrad)


def present_gradients(optimizer: Optimizer) -> list[Tensor]:
    """Return the gradients that a step of an optimizer would use."""
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list):  # of a mock
        return []
    return [p.grad for group in groups for p in group["params"] if p.grad is not None]


def nonfinite_gradients(gradients: Iterable[Tensor]) -> Tensor:
    """Return whether some gradient is nan or infinite, without reading it on the host.

    Args:
        gradients: Tensors of any shapes, dtypes and devices.

    Returns:
        A number greater than 0 if so, else 0. Shape (), float32, on the device of the first.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        dense = gradient._values() if gradient.is_sparse else gradient
        dense = torch.view_as_real(dense) if dense.is_complex() else dense
        alike.setdefault((dense.device, dense.dtype), []).append(dense)
    found = [_found_in(tensors) for tensors in alike.values()]
    if not found:
        return torch.zeros(())
    total = found[0]
    for other in found[1:]:
        total = total + other.to(total.device)
    return total


class HostCheck:
    """Tells whether gradients on the host are finite, in as few operations as can be."""

    def __init__(self) -> None:
        self._found = torch.zeros(())
        self._one = torch.ones(())

    def is_bad(self, gradients: list[Tensor]) -> bool:
        """Return whether some gradient is nan or infinite; the gradients stay what they are."""
        if not gradients:
            return False
        try:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, self._one)
        except (NotImplementedError, RuntimeError):  # sparse, complex, or of another device
            self._found.zero_()  # one before it may have been bad, which is no matter of later ones
            return bool(nonfinite_gradients(gradients))
        if not self._found.item():
            return False
        self._found.zero_()
        return True


def gated_step(
    optimizer: Optimizer, precision: Precision, flag: Tensor, take: Callable[[], Any]
) -> None:
    """Take an optimizer step unless a flag on the device is set.

    The fused updates of torch (Adam, AdamW, SGD, Adagrad) look at the flag on the device, as they
    do for a loss scaler. For any other, and beside a loss scaler, the host reads it: one wait a
    step.

    Args:
        optimizer: The optimizer.
        precision: What hears of a step that is left out.
        flag: 1 to leave the step out, 0 to take it. Shape (), float32.
        take: What takes the step.
    """
    fresh = _without_momentum(optimizer)
    # A loss scaler hands on its own flag, which knows nothing of the steps before.
    if precision.finds_overflow or not _has_gate(optimizer) or fresh is None:
        if flag.item():
            precision.skip(optimizer)
        else:
            take()
        return
    gated: Any = optimizer
    gated.found_inf = flag
    try:
        take()
    finally:
        del gated.found_inf
    for parameter in fresh:
        # torch 2.13 leaves a first momentum that the flag held back uninitialised.
        momentum = optimizer.state[parameter]["momentum_buffer"]
        momentum.copy_(torch.where(flag.to(momentum.device) > 0, 0.0, momentum))


class RunningStatistics:
    """The running statistics of normalising layers, which a forward pass in train mode changes.

    Args:
        network: The network. Other buffers that its forward changes are not known, and stay.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [m for m in network.modules() if isinstance(m, _NormBase)]
        self._kept: list[tuple[Tensor, Tensor]] = []

    @property
    def has_layers(self) -> bool:
        """Whether the network has such layers."""
        return bool(self._layers)

    def keep(self) -> None:
        """Remember them as they are now."""
        self._kept = [
            (buffer, buffer.clone())
            for layer in self._layers
            for buffer in layer._buffers.values()
            if buffer is not None and not is_lazy(buffer)
        ]

    def put_back(self) -> None:
        """Make them what they were."""
        for buffer, before in self._kept:
            buffer.copy_(before)

    def put_back_where(self, flag: Tensor) -> None:
        """Make them what they were, if a flag on the device is set."""
        for buffer, before in self._kept:
            buffer.copy_(torch.where(flag.to(buffer.device), before, buffer))


def _found_in(tensors: list[Tensor]) -> Tensor:
    device = tensors[0].device
    found = torch.zeros((), device=device)
    try:
        # What a loss scaler does, with the scale 1: one call for all gradients.
        with torch.no_grad():
            torch._amp_foreach_non_finite_check_and_unscale_(
                tensors, found, torch.ones((), device=device)
            )
    except (NotImplementedError, RuntimeError):
        finite = [torch.isfinite(tensor).all() for tensor in tensors]
        return 1.0 - torch.stack(finite).all().float()
    return found


def _has_gate(optimizer: Optimizer) -> bool:
    return type(optimizer) in _GATED and all(
        group.get("fused") is True for group in optimizer.param_groups
    )


def _without_momentum(optimizer: Optimizer) -> list[Tensor] | None:
    """Return the parameters whose first momentum a step would make; None if it cannot be undone."""
    fresh: list[Tensor] = []
    if type(optimizer) is not SGD:
        return fresh
    for group in optimizer.param_groups:
        if not group["momentum"]:
            continue
        new = [
            p
            for p in group["params"]
            if p.grad is not None and optimizer.state.get(p, {}).get("momentum_buffer") is None
        ]
        if new and group["dampening"]:
            return None  # the first momentum is undampened: zeros would not be the same
        fresh += new
    return fresh
