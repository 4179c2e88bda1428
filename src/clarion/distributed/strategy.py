"""What the loop asks of whoever shares the work between ranks."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Strategy"]


class Strategy(Protocol):
    """How one or several ranks share a training; the loop knows nothing more of them.

    Attributes:
        rank: The number of this process, from 0; rank 0 prints and writes.
        world_size: How many processes there are.
    """

    rank: int
    world_size: int

    def wrap(self, network: nn.Module) -> Callable[..., Any]:
        """Return the network as it is run when training: the same one, or a wrapper around it."""

    def shard(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return this rank's part of a loader's batches."""

    def total(self, weight: float | Tensor) -> float | Tensor:
        """Return the sum of a weight over the ranks, without reading it on the host."""

    def synchronising(self, closes_step: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a backward pass; gradients meet when the step closes."""

    def reduce(self, sums: list[Tensor]) -> list[Tensor]:
        """Return sums that metrics keep, added up over the ranks."""

    def gather(self, parts: list[Any]) -> list[Any]:
        """Return the outputs of all ranks in the order of the examples."""
