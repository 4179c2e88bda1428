"""Batches of examples of similar length, in an order that is near to random."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from clarion.errors import DataError, InvalidArgumentError, InvalidTypeError, kind_of

__all__ = ["LengthBucketBatchSampler"]


class LengthBucketBatchSampler(Sampler[list[int]]):
    """Batches of examples of similar length, so that little of a batch is padding.

    A pass over the data shuffles all examples, cuts them into windows, sorts each window by
    length, cuts it into batches, and shuffles the batches. Every example comes once per pass.

    Hand it to a loader as ``batch_sampler``: ``DataLoader(dataset, batch_sampler=sampler)``, or
    ``fit_dataset(dataset, dataloader_kwargs={"batch_sampler": sampler})``.

    Args:
        lengths: The length of each example, in any unit. Shape (N,).
        batch_size: Examples in a batch. One batch of a pass may be smaller.
        window: Batches that are sorted together. A large window pads less, a small one is
            closer to random; with 1 the order is that of a plain random sampler.
        shuffle: Whether the order is random. If not, all examples are sorted by length, shortest
            first, which is what an evaluation wants.
        drop_last: Whether the examples that fill no batch are left out; with ``shuffle`` they
            are other ones in each pass.
        seed: What the order is drawn from, together with the number of the pass. If None, each
            iteration draws a seed from torch's global generator, as ``RandomSampler`` does.
        batches_per_epoch: How many batches an iteration gives. The next one goes on where it
            ended, through as many passes as it takes, so that long passes can be cut into short
            epochs. None for one whole pass. Needs a ``seed`` if it shuffles.

    Attributes:
        epoch: The epoch that the next iteration gives, counted from 1.

    Raises:
        DataError: If there are no examples, or none are left for a batch.
        InvalidTypeError: If the lengths are no numbers.
        InvalidArgumentError: If a number is below 1, or ``batches_per_epoch`` comes without
            ``seed``.

    Example:
        >>> sampler = LengthBucketBatchSampler([3, 9, 1, 8], batch_size=2, shuffle=False)
        >>> list(sampler)
        [[2, 0], [3, 1]]
    """

    def __init__(
        self,
        lengths: Iterable[int],
        batch_size: int,
        *,
        window: int = 50,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int | None = None,
        batches_per_epoch: int | None = None,
    ) -> None:
        _at_least_one("batch_size", batch_size)
        _at_least_one("window", window)
        if batches_per_epoch is not None:
            _at_least_one("batches_per_epoch", batches_per_epoch)
            if shuffle and seed is None:
                raise InvalidArgumentError(
                    "batches_per_epoch needs a seed: an epoch goes on where the last one ended, "
                    "so all of them must follow from one number. Pass seed=42."
                )
        self.lengths = _as_lengths(lengths)
        self.batch_size = batch_size
        self.window = window
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.batches_per_epoch = batches_per_epoch
        self.epoch = 1
        self._num_kept = len(self.lengths)
        if drop_last:
            self._num_kept -= len(self.lengths) % batch_size
        if self._num_kept == 0:
            raise DataError(
                f"lengths has {len(self.lengths)} entries, which gives no batch of {batch_size}; "
                "pass the length of each example."
            )

    @property
    def batches_per_pass(self) -> int:
        """The number of batches that hold every example once."""
        return -(-self._num_kept // self.batch_size)

    def places(self, batches: int | None = None) -> Tensor:
        """Return where in the dataset's order the examples of sorted batches belong.

        Args:
            batches: How many batches are read; None for all.

        Returns:
            For each example read, its rank among them by index in the dataset, shape (N,), int64.

        Raises:
            InvalidArgumentError: If there are not so many batches in a pass.
        """
        if batches is not None and batches > self.batches_per_pass:
            raise InvalidArgumentError(
                f"steps={batches} is more than the {self.batches_per_pass} batches of the dataset, "
                "which bucket_by reads once. Leave steps out."
            )
        kept = self._num_kept if batches is None else min(self._num_kept, batches * self.batch_size)
        return self.lengths.argsort(stable=True)[:kept].argsort().argsort()

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration give this epoch, counted from 1; needed only to resume."""
        _at_least_one("epoch", epoch)
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch or self.batches_per_pass

    def __iter__(self) -> Iterator[list[int]]:
        first = (self.epoch - 1) * len(self)
        self.epoch += 1
        # Drawn by the first batch, not by iter(): a DataLoader draws its own seed in between.
        seed = _draw_seed() if self.seed is None else self.seed
        number, start = divmod(first, self.batches_per_pass)
        left = len(self)
        while left > 0:
            batches = self._pass(seed, number)[start : start + left]
            yield from batches
            left -= len(batches)
            number, start = number + 1, 0

    def _pass(self, seed: int, number: int) -> list[list[int]]:
        if not self.shuffle:
            order = self.lengths.argsort(stable=True)[: self._num_kept]
            return [batch.tolist() for batch in order.split(self.batch_size)]
        generator = torch.Generator()
        # Two draws, so that pass 2 of seed 1 is not pass 1 of seed 2.
        generator.manual_seed(seed)
        generator.manual_seed(_draw_seed(generator) ^ number)
        order = torch.randperm(len(self.lengths), generator=generator)[: self._num_kept]
        batches = [
            batch.tolist()
            for window in order.split(self.window * self.batch_size)
            for batch in self._sorted(window).split(self.batch_size)
        ]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _sorted(self, window: Tensor) -> Tensor:
        return window[self.lengths[window].argsort(stable=True)]


def _as_lengths(lengths: Iterable[int]) -> Tensor:
    listed = list(lengths)
    try:
        found = torch.as_tensor(listed)
    except (RuntimeError, TypeError, ValueError):
        found = torch.empty(0, 0)
    if found.ndim != 1:
        raise InvalidTypeError(
            f"lengths holds {kind_of(listed[0])} for the first example; it has one number for "
            "each, as in [len(text) for text in texts]."
        )
    return found


def _draw_seed(generator: torch.Generator | None = None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def _at_least_one(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgumentError(f"{name} is {value!r}; it must be a whole number of at least 1.")
