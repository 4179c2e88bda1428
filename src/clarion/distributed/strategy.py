"""What the loop asks of whoever shares the work between ranks."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from clarion.data.batch import Batch
from clarion.data.feed import Feed

__all__ = ["Strategy"]


class Strategy(Protocol):
    """How one or several ranks share a training; the loop knows nothing more of them.

    With several ranks, every method but ``synchronising`` and ``own_randomness`` may wait for the
    others: all of them have to call it, in the same order.

    Attributes:
        rank: The number of this process, from 0; rank 0 prints and writes.
        world_size: How many processes there are.
        asks_every: Optimizer steps between two questions that the ranks agree on.
    """

    rank: int
    world_size: int
    asks_every: int

    def wrap(self, network: nn.Module) -> Callable[..., Any]:
        """Return the network as it is run when training: the same one, or a wrapper around it."""

    def shard(self, feed: Feed) -> Feed:
        """Return what is about to be read, made to give every rank the same batches."""

    def part(self, batch: Batch, number: int, where: str) -> Batch:
        """Return this rank's rows of a batch.

        Args:
            batch: The batch of all ranks.
            number: Its number in the pass, from 1.
            where: What an error calls it.
        """

    def own_randomness(self, *position: int) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which this rank draws random numbers that no other one draws.

        Args:
            position: Counts that say where the training is; the numbers depend on them alone.
        """

    def total(self, weight: float | Tensor) -> float | Tensor:
        """Return the sum of a weight over the ranks, without reading a device on the host."""

    def synchronising(
        self, closes_step: bool, *position: int
    ) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a forward and backward pass; gradients meet when it closes a step.

        What meets is the mean of the ranks' gradients. Random numbers: see ``own_randomness``.
        """

    def settle(self, network: nn.Module, *, buffers_only: bool = False) -> None:
        """Give every rank the parameters and buffers of rank 0, or its buffers alone."""

    def agree(self, flag: bool) -> bool:
        """Return whether the flag of some rank is True."""

    def reduce(self, sums: list[Tensor]) -> list[Tensor]:
        """Return sums, alike on all ranks, added up over them."""

    def gather(self, own: Any) -> list[Any]:
        """Return what the ranks give, in their order; tensors come to the CPU of each rank."""
