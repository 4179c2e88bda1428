"""What is compiled of a model: nothing, the network, or whole train steps."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from clarion.engine.compiled import Compilation, CompiledStep
from clarion.errors import InvalidArgumentError

__all__ = ["Compiler"]

_MODES = (False, True, "step")


class Compiler:
    """Hands out what is compiled, and keeps it for the next training.

    Args:
        mode: False for nothing, True for the network, ``"step"`` for whole train steps.
        network: The network.

    Raises:
        InvalidArgumentError: If the mode is nothing of these.
    """

    def __init__(self, mode: Any, network: nn.Module) -> None:
        if not any(mode is known for known in _MODES[:2]) and mode != "step":
            raise InvalidArgumentError(
                f"compile is {mode!r}; pass True to compile the network, "
                '"step" to compile whole train steps, or False.'
            )
        self.mode = mode
        self._network = network
        self._forward: tuple[Any, Any] | None = None
        self._step: CompiledStep | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle gets: it compiles anew."""
        return {**vars(self), "_forward": None, "_step": None}

    @property
    def compilation(self) -> Compilation | None:
        """What compiled steps cost and save; None if none was compiled."""
        return None if self._step is None else self._step.compilation

    def state_dict(self) -> dict[str, Any]:
        """Return what decides which train steps to come are compiled."""
        return {} if self._step is None else self._step.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state; the next training goes on with it."""
        step = self.step()
        if step is not None and state:
            step.load_state_dict(state)

    def forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the network as it is run, compiled if that is asked for."""
        if self.mode is not True:
            return forward
        if self._forward is None or self._forward[0] is not forward:
            self._forward = forward, torch.compile(forward)
        compiled: Callable[..., Any] = self._forward[1]
        return compiled

    def step(self) -> CompiledStep | None:
        """Return what takes compiled steps; None if that is not asked for."""
        if self.mode != "step":
            return None
        if self._step is None:
            self._step = CompiledStep(self._network)
        return self._step
