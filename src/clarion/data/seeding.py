"""Random numbers inside datasets, drawn anew from a seed for each batch."""

import hashlib
import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import (
    Dataset,
    Subset,
    TensorDataset as TorchTensorDataset,
    default_collate,
    default_convert,
    get_worker_info,
)

from clarion.data.bad_rows import GuardedDataset
from clarion.data.dataset import TensorDataset
from clarion.data.padding import Padding

__all__ = [
    "InsideWorker",
    "SeededDataset",
    "Ticket",
    "draws_numbers",
    "leave_seed",
    "next_seed",
    "seed_of",
]

_PLAIN = (TensorDataset, TorchTensorDataset, list, tuple, dict, range, np.ndarray, torch.Tensor)
_COLLATES = (default_collate, default_convert)


class Ticket(NamedTuple):
    """What a sampler hands to a `SeededDataset`.

    Attributes:
        indices: The indices of a batch, as the user's sampler gave them.
        seed: What the random numbers of the batch are drawn from.
    """

    indices: Any
    seed: int


class SeededDataset(Dataset[Any]):
    """A dataset whose random numbers follow from the seed of each batch.

    So they do not depend on the number of worker processes, nor on what was loaded before. It
    answers to a `Ticket` in the place of an index, or of a list of indices. In a worker process
    the seed stays in force until the next batch, so that the function that collates draws from it
    too; in the main process until `leave_seed`.

    Args:
        dataset: The user's dataset: examples by index.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, ticket: Ticket) -> Any:
        _STREAMS.enter(ticket.seed)
        return self.dataset[ticket.indices]

    def __getitems__(self, ticket: Ticket) -> Any:
        """Return the examples of a batch."""
        _STREAMS.enter(ticket.seed)
        dataset = self.dataset
        # torch asks a dataset in the same way.
        several = getattr(dataset, "__getitems__", None)
        if several:
            return several(ticket.indices)
        return [dataset[index] for index in ticket.indices]

    def __len__(self) -> int:
        return len(self.dataset)


class InsideWorker:
    """What runs first in a worker process: the user's function finds the user's dataset there.

    Args:
        function: The user's ``worker_init_fn``.
    """

    def __init__(self, function: Callable[[int], Any] | None) -> None:
        self.function = function

    def __call__(self, worker: int) -> None:
        """Put the user's dataset where ``get_worker_info`` tells of it."""
        info: Any = get_worker_info()
        while isinstance(info.dataset, SeededDataset | GuardedDataset):
            object.__setattr__(info, "dataset", info.dataset.dataset)  # it refuses assignments
        if self.function is not None:
            self.function(worker)


def draws_numbers(dataset: Any, collate: Any) -> bool:
    """Tell whether loading from a dataset may draw random numbers.

    Args:
        dataset: Examples by index.
        collate: What makes a batch of examples.
    """
    if not any(collate is known for known in _COLLATES) and not isinstance(collate, Padding):
        return True
    while type(dataset) is Subset:
        dataset = dataset.dataset
    if type(dataset) in _PLAIN:
        return False
    # A Hugging Face dataset calls a function of the user's only in this format.
    hugging = hasattr(type(dataset), "with_format") and hasattr(type(dataset), "column_names")
    return not hugging or dataset.format["type"] == "custom"


def next_seed() -> int:
    """Return the number that torch's global generator would give next, without drawing it."""
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def seed_of(*numbers: int) -> int:
    """Return a seed, at least 0 and below 2**63, that depends on all the numbers."""
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def leave_seed() -> None:
    """Put the random states of the main process back, if a batch has been loaded in it."""
    _STREAMS.leave()


class _Streams:
    """The random streams of this process: Python's, numpy's and torch's on the CPU."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Any, Any, torch.Tensor] | None = None
        self._own = np.random.MT19937()  # numpy's stream while a batch is loaded

    def enter(self, seed: int) -> None:
        if self._kept is None and get_worker_info() is None:
            # Putting another generator in numpy's place is quick, putting a state back is not. A
            # normal number that numpy holds back would be lost by it, so that is asked for.
            pending: Any = np.random.get_state(legacy=False)  # noqa: NPY002
            numbers = np.random.get_bit_generator()  # type: ignore[attr-defined]
            state = torch.default_generator.get_state()
            self._kept = random.getstate(), numbers, pending, state
            np.random.set_bit_generator(self._own)  # type: ignore[attr-defined]
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
        # Not torch.manual_seed: it seeds every device too, and takes a hundred times as long.
        torch.default_generator.manual_seed(seed)

    def leave(self) -> None:
        if self._kept is None:
            return
        (python, numbers, pending, state), self._kept = self._kept, None
        random.setstate(python)
        np.random.set_bit_generator(numbers)  # type: ignore[attr-defined]
        if pending["has_gauss"]:
            np.random.set_state(pending)  # noqa: NPY002
        torch.default_generator.set_state(state)


_STREAMS = _Streams()
