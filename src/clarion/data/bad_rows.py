"""Rows of a dataset that cannot be loaded: named, or left out and counted."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from torch.utils.data import Dataset

from clarion.errors import DataError

__all__ = ["BadRow", "BadRows", "GuardedDataset", "LeaveOut", "without_bad_rows"]

_SHOWN = 5


class BadRow(NamedTuple):
    """A row that could not be loaded.

    Attributes:
        row: Its index, as the sampler gave it, as text.
        error: What its dataset raised, as text.
    """

    row: str
    error: str


class GuardedDataset(Dataset[Any]):
    """A dataset whose errors name the row, or give a `BadRow` in its place.

    Args:
        dataset: The user's dataset: examples by index.
        skips: Whether an error gives a `BadRow`.
    """

    def __init__(self, dataset: Any, *, skips: bool = False) -> None:
        self.dataset = dataset
        self.skips = skips

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            if self.skips:
                return BadRow(str(index), f"{type(error).__name__}: {error}")
            error.add_note(f"This happened in row {index} of the dataset.")
            raise

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        """Return the examples of a batch, or whatever the dataset makes of them at once."""
        # torch asks a dataset in the same way.
        several = getattr(self.dataset, "__getitems__", None)
        if several:
            try:
                return several(indices)
            except Exception as error:
                if not self.skips:
                    rows = ", ".join(map(str, indices))
                    error.add_note(f"This happened in one of the rows {rows} of the dataset.")
                    raise
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return len(self.dataset)


class LeaveOut:
    """A function that makes a batch of examples, bad rows left out.

    Args:
        collate: The user's.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, examples: Any) -> tuple[Any, list[list[str]]]:
        """Return a batch, and the bad rows as plain lists, which every loader hands on.

        Raises:
            DataError: If all rows are bad.
        """
        if not isinstance(examples, list):  # a dataset has made them at once, so none is bad
            return self.collate(examples), []
        good = [example for example in examples if not isinstance(example, BadRow)]
        bad = [list(example) for example in examples if isinstance(example, BadRow)]
        if not good:
            raise DataError(
                f'on_bad_row="skip": all {len(bad)} rows of a batch could not be loaded. '
                f"{_described([BadRow(*row) for row in bad])}"
            )
        return self.collate(good), bad


class _Counts(Protocol):
    bad_rows: int


class BadRows:
    """Counts the bad rows of a training, and tells of them at the end of each epoch.

    Args:
        counts: Where they are counted.
    """

    def __init__(self, counts: _Counts) -> None:
        self._counts = counts
        self._rows: list[BadRow] = []

    def add(self, rows: Sequence[Sequence[str]]) -> None:
        """Count the bad rows of a batch that is about to be used."""
        self._counts.bad_rows += len(rows)
        self._rows += [BadRow(*row) for row in rows]

    def end_pass(self, where: str) -> None:
        """Warn of those since the last call.

        Args:
            where: What was read, for example ``the train loader in epoch 2``.
        """
        rows, self._rows = self._rows, []
        if rows:
            several = "rows were" if len(rows) > 1 else "row was"
            warnings.warn(
                f"{len(rows)} {several} left out of {where}. {_described(rows)}", stacklevel=2
            )


def without_bad_rows(
    batches: Iterator[tuple[Any, list[list[str]]]], tell: Callable[[list[list[str]]], None]
) -> Iterator[Any]:
    """Yield the batches that `LeaveOut` made, and tell of their bad rows.

    Args:
        batches: What it made.
        tell: Called with the bad rows of a batch that has some.
    """
    for batch, rows in batches:
        if rows:
            tell(rows)
        yield batch


def _described(rows: Sequence[BadRow]) -> str:
    shown = ", ".join(bad.row for bad in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    number = "Rows" if len(rows) > 1 else "Row"
    return f"{number} {shown}{more}; the first: {rows[0].error}"
