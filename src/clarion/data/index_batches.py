"""The batches of indices of a loader, a seed with each, from any of them on."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from clarion.data.seeding import Ticket, seed_of

__all__ = ["IndexBatches", "drop"]


class IndexBatches:
    """The batches of indices of a loader, with a seed each.

    Args:
        sampler: The user's: an iterable of batches of indices.
        seeded: Whether they become tickets.
        ahead: How many of them workers ask for before their time; 0 without workers.
    """

    def __init__(self, sampler: Any, *, seeded: bool, ahead: int = 0) -> None:
        self.sampler = sampler
        self.ahead = ahead
        self.seeded = seeded
        self.seed = self.skip = 0
        self._latest: _IndexIterator | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # torch asks twice where there are workers; the sampler is to draw its order once.
        if self._latest is None:
            self._latest = _IndexIterator(self)
        return self._latest

    def sampler_length(self) -> int | None:
        """Return how many batches the sampler announces; None if it does not say."""
        try:
            return len(self.sampler)
        except (TypeError, NotImplementedError):
            return None

    def begin(self, seed: int, skip: int) -> None:
        """Begin another traversal.

        Args:
            seed: What the seeds of the batches depend on.
            skip: How many batches to leave out.
        """
        self.seed, self.skip, self._latest = seed, skip, None

    def arrive(self) -> None:
        """Leave out now what is to be left out."""
        if self._latest is not None:
            self._latest.arrive()

    def under_way(self, numbers: Iterable[int]) -> list[Any]:
        """Return the indices of batches that workers were asked for lately.

        Args:
            numbers: How many they were asked for before each, in this traversal.
        """
        asked = {} if self._latest is None else dict(self._latest.asked)
        return [asked[number] for number in numbers if number in asked]


class _IndexIterator:
    """One traversal of `IndexBatches`.

    The user's sampler is asked when torch asks, so that numbers are drawn in the same order.
    """

    def __init__(self, batches: IndexBatches) -> None:
        self._inner: Iterator[Any] = iter(batches.sampler)
        self._length = batches.sampler_length()
        self._ahead = batches.ahead
        self._first = batches.skip
        self.asked: deque[tuple[int, Any]] = deque(maxlen=batches.ahead)
        self._seed = batches.seed if batches.seeded else None
        self._skip = batches.skip
        self._number = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.arrive()
        if self._ahead and self._number == self._length:
            # A sampler with a generator of its own draws once more as it ends, which workers that
            # load ahead always come to, and a pass of so many batches does not.
            raise StopIteration
        indices = next(self._inner)
        if self._ahead:
            self.asked.append((self._number - self._first, indices))
        self._number += 1
        if self._seed is None:
            return indices
        return Ticket(indices, seed_of(self._seed, self._number))

    def arrive(self) -> None:
        skip, self._skip = self._skip, 0
        if skip:
            drop(self._inner, skip)
            self._number += skip


def drop(iterator: Iterator[Any], count: int) -> None:
    """Take so many things, or as many as there are, and drop them."""
    for _ in islice(iterator, max(0, count)):
        pass
