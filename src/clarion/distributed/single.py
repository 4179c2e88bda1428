"""One process that does all the work."""

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from clarion.data.batch import Batch
from clarion.data.feed import Feed

__all__ = ["Single"]

_NOTHING = contextlib.nullcontext()


class Single:
    """The strategy of one process: nothing is shared, so nothing has to be done."""

    rank = 0
    world_size = 1
    asks_every = 1

    def wrap(self, network: nn.Module) -> Callable[..., Any]:
        """Return the network itself."""
        return network

    def shard(self, feed: Feed) -> Feed:
        """Return the feed itself."""
        return feed

    def part(self, batch: Batch, number: int, where: str) -> Batch:
        """Return the batch itself."""
        return batch

    def own_randomness(self, *position: int) -> contextlib.AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return _NOTHING

    def total(self, weight: float | Tensor) -> float | Tensor:
        """Return the weight itself."""
        return weight

    def synchronising(
        self, closes_step: bool, *position: int
    ) -> contextlib.AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return _NOTHING

    def settle(self, network: nn.Module, *, buffers_only: bool = False) -> None:
        """Do nothing."""

    def agree(self, flag: bool) -> bool:
        """Return the flag itself."""
        return flag

    def reduce(self, sums: list[Tensor]) -> list[Tensor]:
        """Return the sums themselves."""
        return sums

    def gather(self, own: Any) -> list[Any]:
        """Return a list of what is given alone."""
        return [own]
