"""All that must survive a restart, in one place."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, runtime_checkable

from clarion.errors import CheckpointError, quoted

__all__ = ["Progress", "Stateful", "TrainState", "callback_states"]

_MAY_LACK = frozenset({"under_way", "compiled"})
"""Parts that some checkpoints do not have: those of format 1, written between two epochs, and those
of models whose steps were not compiled."""


@runtime_checkable
class Stateful(Protocol):
    """Something whose state is a nested dict of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Restore the state."""


@dataclass
class Progress:
    """Counts of things done.

    Attributes:
        epoch: Epochs finished.
        batch: Train batches finished in the epoch under way; 0 at an epoch's edge.
        step: Optimizer steps done over the whole training.
        skipped: How many of these were left out, since a loss or gradient was not finite.
        bad_rows: Train examples that could not be loaded and were left out.
        stopped: Whether a callback asked to stop.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    skipped: int = 0
    bad_rows: int = 0
    stopped: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts; those an older checkpoint does not have stay as they are."""
        for field in fields(self):
            if field.name in state:
                setattr(self, field.name, state[field.name])


class TrainState:
    """The parts of a training that a checkpoint holds, by name.

    Args:
        parts: Objects with ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, parts: Mapping[str, Stateful]) -> None:
        self.parts = dict(parts)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part, by its name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every part; random states come last, since restoring others may draw numbers.

        Raises:
            CheckpointError: If the state lacks a part that every checkpoint has.
        """
        missing = [n for n in self.parts if n not in state and n not in _MAY_LACK]
        if missing:
            raise CheckpointError(
                f"The checkpoint has no state for {quoted(missing)}; it holds {quoted(state)}. "
                "Build the model as it was when it was written."
            )
        for name in sorted(set(self.parts) & set(state), key=lambda name: (name == "random", name)):
            self.parts[name].load_state_dict(state[name])


class _CallbackStates:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = dict(named)

    def state_dict(self) -> dict[str, Any]:
        return {name: callback.state_dict() for name, callback in self._named.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, callback in self._named.items():
            if name in state:
                callback.load_state_dict(state[name])


def callback_states(callbacks: Iterable[Any]) -> Stateful:
    """Return the states of those callbacks that have one, as one part.

    A callback is known by its class and, where a class occurs several times, its number among
    them; one that the checkpoint does not know starts afresh.
    """
    named: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for callback in callbacks:
        # Looked up in the class: a mock would answer to any name.
        if hasattr(type(callback), "state_dict") and hasattr(type(callback), "load_state_dict"):
            name = type(callback).__qualname__
            seen[name] = seen.get(name, 0) + 1
            named[name if seen[name] == 1 else f"{name}#{seen[name]}"] = callback
    return _CallbackStates(named)
