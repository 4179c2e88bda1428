"""One process that does all the work."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["Single"]

_NOTHING = contextlib.nullcontext()


class Single:
    """The strategy of one process: nothing is shared, so nothing has to be done."""

    rank = 0
    world_size = 1

    def wrap(self, network: nn.Module) -> Callable[..., Any]:
        """Return the network itself."""
        return network

    def shard(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return the loader itself."""
        return loader

    def total(self, weight: float | Tensor) -> float | Tensor:
        """Return the weight itself."""
        return weight

    def synchronising(self, closes_step: bool) -> contextlib.AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return _NOTHING

    def reduce(self, sums: list[Tensor]) -> list[Tensor]:
        """Return the sums themselves."""
        return sums

    def gather(self, parts: list[Any]) -> list[Any]:
        """Return the outputs themselves."""
        return parts
