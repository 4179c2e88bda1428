"""Checkpoint callbacks: weights, optimizer, random states, schedules, anything with a state."""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, Unpack

from clarion.arguments import checked_arguments
from clarion.callbacks.base import HOOKS
from clarion.callbacks.lr_scheduler import _PyTorchLRSchedulerWrapper
from clarion.callbacks.measured import measured_weights
from clarion.callbacks.memory import check_keys
from clarion.callbacks.periodic import PeriodicSaveCallback, SaveOptions
from clarion.checkpoints.random import load_random_states, save_random_states
from clarion.checkpoints.weights import load_state, save_state
from clarion.errors import CheckpointError, InvalidTypeError, quoted

if TYPE_CHECKING:
    from clarion.model import Model

__all__ = [
    "LRSchedulerCheckpoint",
    "ModelCheckpoint",
    "OptimizerCheckpoint",
    "RandomStatesCheckpoint",
    "StateCheckpoint",
]


class ModelCheckpoint(PeriodicSaveCallback):
    """Saves the weights of the network, as ``Model.save_weights`` does.

    With averaged weights (``average`` of ``Optimization``) it saves those, which are what
    validation measured.

    Arguments: see ``PeriodicSaveCallback``.
    """

    def save_file(self, fd: IO[bytes], epoch_number: int, logs: dict[str, Any]) -> None:
        """Save the weights."""
        with measured_weights(self.model):
            self.model.save_weights(fd)

    def restore(self, fd: IO[bytes]) -> None:
        """Load the weights."""
        self.model.load_weights(fd)


class OptimizerCheckpoint(PeriodicSaveCallback):
    """Saves the state of the optimizer, as ``Model.save_optimizer_state`` does.

    Arguments: see ``PeriodicSaveCallback``.
    """

    def save_file(self, fd: IO[bytes], epoch_number: int, logs: dict[str, Any]) -> None:
        """Save the state of the optimizer."""
        self.model.save_optimizer_state(fd)

    def restore(self, fd: IO[bytes]) -> None:
        """Load the state of the optimizer."""
        self.model.load_optimizer_state(fd)


class RandomStatesCheckpoint(PeriodicSaveCallback):
    """Saves the random states of torch, CUDA, numpy and Python.

    Arguments: see ``PeriodicSaveCallback``.
    """

    def save_file(self, fd: IO[bytes], epoch_number: int, logs: dict[str, Any]) -> None:
        """Save the random states."""
        save_random_states(fd)

    def restore(self, fd: IO[bytes]) -> None:
        """Load the random states."""
        load_random_states(fd)


class StateCheckpoint(PeriodicSaveCallback):
    """Saves the states of any objects in one file.

    Args:
        name_to_stateful: Objects with ``state_dict()`` and ``load_state_dict(state)``, by name.
        filename: See ``PeriodicSaveCallback``.
        **options: See ``PeriodicSaveCallback``.
    """

    @checked_arguments
    def __init__(
        self,
        name_to_stateful: Mapping[str, Any],
        filename: str | os.PathLike[str],
        **options: Unpack[SaveOptions],
    ) -> None:
        super().__init__(filename, **options)
        self.name_to_stateful = name_to_stateful

    def save_file(self, fd: IO[bytes], epoch_number: int, logs: dict[str, Any]) -> None:
        """Save the states."""
        named = self.name_to_stateful.items()
        save_state({name: stateful.state_dict() for name, stateful in named}, fd)

    def restore(self, fd: IO[bytes]) -> None:
        """Load the states; warn of those that only the file has, or only the callback."""
        states = load_state(fd)
        if not isinstance(states, Mapping):
            raise CheckpointError(
                f"StateCheckpoint reads a dict of states; the file holds a {type(states).__name__}."
            )
        for name, stateful in self.name_to_stateful.items():
            if name in states:
                stateful.load_state_dict(states[name])
        unexpected = [name for name in states if name not in self.name_to_stateful]
        missing = [name for name in self.name_to_stateful if name not in states]
        if unexpected:
            warnings.warn(f"Unexpected key(s): {quoted(unexpected)}.", stacklevel=2)
        if missing:
            warnings.warn(f"Missing key(s): {quoted(missing)}.", stacklevel=2)


class LRSchedulerCheckpoint(PeriodicSaveCallback):
    """Runs a scheduler callback and saves its state, after it was stepped.

    Every hook goes to the scheduler first: do not pass the scheduler to ``fit`` as well.

    Args:
        lr_scheduler: The scheduler callback.
        filename: See ``PeriodicSaveCallback``.
        **options: See ``PeriodicSaveCallback``.

    Raises:
        InvalidTypeError: If ``lr_scheduler`` is something else.
    """

    @checked_arguments
    def __init__(
        self,
        lr_scheduler: _PyTorchLRSchedulerWrapper,
        filename: str | os.PathLike[str],
        **options: Unpack[SaveOptions],
    ) -> None:
        if not isinstance(lr_scheduler, _PyTorchLRSchedulerWrapper):
            raise InvalidTypeError(
                f"LRSchedulerCheckpoint takes a scheduler callback of clarion, such as "
                f"clarion.ExponentialLR(gamma=0.9), not a {type(lr_scheduler).__name__}."
            )
        super().__init__(filename, **options)
        self.lr_scheduler = lr_scheduler

    def save_file(self, fd: IO[bytes], epoch_number: int, logs: dict[str, Any]) -> None:
        """Save the state of the scheduler."""
        self.lr_scheduler.save_state(fd)

    def restore(self, fd: IO[bytes]) -> None:
        """Load the state of the scheduler."""
        self.lr_scheduler.load_state(fd)

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, and the state of the scheduler."""
        return {**super().state_dict(), "lr_scheduler": self.lr_scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        check_keys(self, state, ["lr_scheduler"])
        super().load_state_dict(state)
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])

    def set_params(self, params: dict[str, Any]) -> None:
        """Receive the parameters of the run."""
        super().set_params(params)
        self.lr_scheduler.set_params(params)

    def set_model(self, model: "Model") -> None:
        """Receive the model that runs."""
        super().set_model(model)
        self.lr_scheduler.set_model(model)


def _after_the_scheduler(hook: str) -> Callable[..., None]:
    def forward(self: LRSchedulerCheckpoint, *args: Any) -> None:
        getattr(self.lr_scheduler, hook)(*args)
        getattr(PeriodicSaveCallback, hook)(self, *args)

    forward.__name__ = hook
    forward.__doc__ = f"Call ``{hook}`` of the scheduler, then do what is to be done here."
    return forward


for _hook in HOOKS:
    setattr(LRSchedulerCheckpoint, _hook, _after_the_scheduler(_hook))
