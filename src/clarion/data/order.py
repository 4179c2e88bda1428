"""What decides the order of the data, as a part of what a checkpoint holds."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

__all__ = ["LoaderState"]


class LoaderState:
    """The generators and epoch counters of loaders and their samplers.

    A loader without a generator of its own draws from torch's, whose state is saved elsewhere.

    Args:
        sources: Loaders, samplers, generators, or mappings of them (``dataloader_kwargs``).
    """

    def __init__(self, sources: Iterable[Any]) -> None:
        found = {id(part): part for source in sources for part in _parts(source)}
        self._generators = [part for part in found.values() if isinstance(part, torch.Generator)]
        self._counters = [part for part in found.values() if _counts_epochs(part)]

    @property
    def draws(self) -> bool:
        """Whether there are generators among them."""
        return bool(self._generators)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the generators and the numbers of the epochs."""
        return {
            "generators": [generator.get_state() for generator in self._generators],
            "epochs": [counter.epoch for counter in self._counters],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned, as far as the loaders are the same."""
        for generator, value in zip(self._generators, state["generators"], strict=False):
            generator.set_state(value)
        for counter, epoch in zip(self._counters, state["epochs"], strict=False):
            counter.set_epoch(epoch)


def _parts(source: Any) -> Iterator[Any]:
    """Yield a loader and what it takes its order from."""
    if isinstance(source, Mapping):
        for value in source.values():
            yield from _parts(value)
        return
    yield source
    for name in ("generator", "sampler", "batch_sampler"):
        # Looked up in the instance: a mock, or a lazy property, would answer to any name.
        part = getattr(source, "__dict__", {}).get(name)
        if part is not None:
            yield from _parts(part)


def _counts_epochs(part: Any) -> bool:
    return hasattr(type(part), "set_epoch") and isinstance(getattr(part, "epoch", None), int)
