"""The rows of a batch that are one rank's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from clarion.data.batch import Batch
from clarion.errors import DataError, kind_of

__all__ = ["bounds", "rows_of"]


def bounds(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the first row of a rank and the one after its last; lower ranks have no fewer.

    Args:
        size: The rows of the batch.
        rank: The rank, from 0.
        world_size: How many ranks there are.
    """
    return -(-rank * size // world_size), -(-(rank + 1) * size // world_size)


def rows_of(batch: Batch, rank: int, world_size: int, where: str) -> Batch:
    """Return the part of a batch that is one rank's.

    A rank for which there is no row gets the first one as a filler, of which nothing counts: it
    has to take part in the backward pass all the same.

    Args:
        batch: The batch of all ranks.
        rank: The rank, from 0.
        world_size: How many ranks there are.
        where: Which batch this is, for errors.

    Raises:
        DataError: If something in it does not have one row per example.
    """
    size = batch.size or 0
    if size == 0:
        return batch
    low, high = bounds(size, rank, world_size)
    is_filler = low == high
    cut = _Cut(slice(0, 1) if is_filler else slice(low, high), size, where)
    return replace(
        batch,
        args=tuple(cut(value, f"args[{i}]") for i, value in enumerate(batch.args)),
        kwargs={key: cut(value, f'kwargs["{key}"]') for key, value in batch.kwargs.items()},
        target=cut(batch.target, "target"),
        weight=cut(batch.weight, "weight"),
        size=high - low,
        is_filler=is_filler,
    )


class _Cut:
    """Takes the same rows of everything in a structure."""

    def __init__(self, rows: slice, size: int, where: str) -> None:
        self._rows = rows
        self._size = size
        self._where = where

    def __call__(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor | np.ndarray):
            return self._of_array(value, name)
        if isinstance(value, PackedSequence):
            raise self._error(name, "is a PackedSequence", "Pass padded sequences")
        if isinstance(value, Mapping):
            return {key: self(part, f'{name}["{key}"]') for key, part in value.items()}
        if not isinstance(value, list | tuple):
            return value  # a number, a text or None is the same for all rows
        if len(value) == self._size and not (_holds_arrays(value) and self._fits(value)):
            return value[self._rows]  # one entry per example, such as texts or images by size
        if value and not _holds_arrays(value):
            raise self._error(name, f"is {kind_of(value)} of {len(value)}", "Make it one per row")
        parts = [self(part, f"{name}[{i}]") for i, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)

    def _fits(self, value: Any) -> bool:
        """Return whether all arrays in there have one row per example."""
        if isinstance(value, Tensor | np.ndarray):
            return value.ndim > 0 and len(value) == self._size
        if isinstance(value, Mapping):
            return all(map(self._fits, value.values()))
        return not isinstance(value, list | tuple) or all(map(self._fits, value))

    def _of_array(self, value: Any, name: str) -> Any:
        if value.ndim == 0:
            return value
        if len(value) == self._size:
            return value[self._rows]
        raise self._error(name, f"has shape {tuple(value.shape)}", "Put the examples first")

    def _error(self, name: str, found: str, remedy: str) -> DataError:
        return DataError(
            f"{self._where} cannot be shared between ranks: its {name} {found}, and the batch has "
            f"{self._size} examples. {remedy}, or train on one process."
        )


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray | PackedSequence | Mapping):
        return True
    return isinstance(value, list | tuple) and any(map(_holds_arrays, value))
