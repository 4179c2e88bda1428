"""What is done between two optimizer steps, where a training can be saved or left."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from clarion.arguments import check_whole_number
from clarion.callbacks.base import Callback
from clarion.engine.durations import seconds_of

__all__ = ["EdgeCallback", "Interval", "edge_of"]


class EdgeCallback(ABC, Callback):
    """A callback that is also called at the edges between optimizer steps.

    An edge is reached when a train batch has closed an optimizer step and every hook of that batch
    has been called: weights, optimizer, metrics and callbacks all stand after the same batch, no
    gradient is accumulated, and no batch of the next step has been asked for.
    """

    @abstractmethod
    def at_edge(self, number: int) -> None:
        """Act at an edge.

        Args:
            number: The train batches done in this epoch. ``model.progress`` has the other counts.
        """


def edge_of(callbacks: Iterable[Any]) -> Callable[[int], None] | None:
    """Return what the loop calls at each edge, in the order of the callbacks; None for nobody."""
    acts = [one.at_edge for one in callbacks if isinstance(one, EdgeCallback)]
    if len(acts) < 2:
        return acts[0] if acts else None

    def act(number: int) -> None:
        for one in acts:
            one(number)

    return act


class Interval:
    """Every so many optimizer steps, or whenever so much time has passed.

    Args:
        name: What an error calls the value.
        every: A whole number of optimizer steps; a span of time as text such as ``"5min"`` or as
            a float in seconds; None for never.

    Raises:
        InvalidArgumentError: If it is nothing of these.
    """

    def __init__(self, name: str, every: int | float | str | None) -> None:
        self._steps: int | None = None
        self._seconds: float | None = None
        if isinstance(every, str | float):
            self._seconds = seconds_of(name, every)
        elif every is not None:
            check_whole_number(name, every, 1)
            self._steps = every
        self._since = monotonic()

    def restart(self) -> None:
        """Count the time from now on."""
        self._since = monotonic()

    def is_due(self, step: int) -> bool:
        """Tell whether it is time.

        Args:
            step: Optimizer steps done over the whole training.
        """
        if self._steps is not None:
            return step % self._steps == 0
        return self._seconds is not None and monotonic() - self._since >= self._seconds
