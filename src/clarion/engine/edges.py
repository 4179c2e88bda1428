"""What is done between two optimizer steps, where a training can be saved or left."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from clarion.callbacks.base import Callback

__all__ = ["EdgeCallback", "edge_of"]


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
