"""In which arithmetic the network runs, and how its gradients are made."""

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from clarion.data.nested import map_structure
from clarion.engine.optimizers import complete_momenta
from clarion.errors import InvalidArgumentError, UnknownNameError, quoted, suggestion

__all__ = ["PRECISIONS", "Full", "Mixed", "Precision", "ScaledMixed", "make_precision"]


class Precision(Protocol):
    """How a step computes.

    Attributes:
        finds_overflow: Whether it leaves out steps whose gradients overflowed by itself.
    """

    finds_overflow: bool

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the network is called."""

    def widen(self, output: Any) -> Any:
        """Return the network's output in the dtype in which loss and metrics are computed."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to those of the parameters."""

    def finish_gradients(self, optimizer: Optimizer) -> None:
        """Make the gradients true to scale, before anybody looks at them."""

    def step(self, optimizer: Optimizer) -> None:
        """Update the weights."""

    def skip(self, optimizer: Optimizer) -> None:
        """End an optimizer step that is left out."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


class Full:
    """The dtypes that the network has: ``"32"`` for the usual one."""

    finds_overflow = False

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """Change nothing."""
        return _NOTHING

    def widen(self, output: Any) -> Any:
        """Return the output as it is."""
        return output

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to those of the parameters."""
        loss.backward()

    def finish_gradients(self, optimizer: Optimizer) -> None:
        """Do nothing: they are true to scale."""

    def step(self, optimizer: Optimizer) -> None:
        """Update the weights."""
        if type(optimizer) is SGD and optimizer.state:
            complete_momenta(optimizer)
        optimizer.step()

    def skip(self, optimizer: Optimizer) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""


class Mixed(Full):
    """bfloat16 where it is safe, weights and everything after the network in float32.

    Args:
        device_type: The kind of device the network is on, ``"cpu"`` or ``"cuda"``.
        dtype: The dtype of the fast arithmetic.
    """

    def __init__(self, device_type: str, dtype: torch.dtype = torch.bfloat16) -> None:
        self._device_type = device_type
        self._dtype = dtype

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """Return torch's autocast."""
        return torch.autocast(self._device_type, self._dtype)

    def widen(self, output: Any) -> Any:
        """Return the output with reduced floats as float32, in the same structure and type."""
        if hasattr(output, "to_tuple") and isinstance(output, Mapping):
            fields = {key: map_structure(value, _to_float32) for key, value in output.items()}
            return type(output)(**fields)
        return map_structure(output, _to_float32)


class ScaledMixed(Mixed):
    """float16 where it is safe, with a loss scale that keeps small gradients from vanishing."""

    finds_overflow = True

    def __init__(self, device_type: str) -> None:
        super().__init__(device_type, torch.float16)
        self._scaler = torch.amp.GradScaler(device_type)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the scaled loss."""
        self._scaler.scale(loss).backward()

    def finish_gradients(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Update the weights unless a gradient overflowed, and adapt the scale."""
        beginning = complete_momenta(optimizer) if type(optimizer) is SGD else []
        scale = self._scaler.get_scale() if beginning else 0.0
        self._scaler.step(optimizer)
        self._scaler.update()
        if beginning and self._scaler.get_scale() < scale:
            # torch 2.13 leaves a first momentum that an overflow held back uninitialised.
            for parameter in beginning:
                optimizer.state.pop(parameter, None)

    def skip(self, optimizer: Optimizer) -> None:
        """Adapt the scale to the gradients of a step that is left out."""
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its counters."""
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scale and its counters."""
        self._scaler.load_state_dict(dict(state))


_NOTHING = contextlib.nullcontext()  # it has no state, so one serves all batches

PRECISIONS = ("32", "bf16-mixed", "fp16-mixed")
"""The names that ``precision=`` knows."""


def make_precision(name: str, network: nn.Module) -> Precision:
    """Return the precision of this name for a network where it is now.

    Args:
        name: ``"32"``, ``"bf16-mixed"`` or ``"fp16-mixed"``.
        network: The network; its first parameter tells the kind of device.

    Raises:
        UnknownNameError: If there is no such precision.
        InvalidArgumentError: If the device cannot do it.
    """
    if name not in PRECISIONS:
        asked = str(name).removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")
        hint = suggestion(asked, PRECISIONS) or "."
        raise UnknownNameError(f'Unknown precision "{name}"{hint} Known: {quoted(PRECISIONS)}.')
    if name == "32":
        return Full()
    parameter = next(network.parameters(), None)
    device_type = "cpu" if parameter is None else parameter.device.type
    if not torch.amp.is_autocast_available(device_type):
        raise InvalidArgumentError(
            f'precision="{name}" needs a device with mixed precision; the network is on '
            f'"{device_type}", which has none. Use precision="32".'
        )
    return ScaledMixed(device_type) if name == "fp16-mixed" else Mixed(device_type)


def _to_float32(leaf: Any) -> Any:
    narrow = isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16)
    return leaf.float() if narrow else leaf
