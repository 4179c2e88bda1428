"""Batches joined as they come, in arrays that are made once."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise, repeat
from operator import itemgetter
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from clarion.data.nested import concatenate, detached, map_structure
from clarion.errors import DataError, kind_of

__all__ = ["Joiner", "Memory", "Store"]

_BATCHES_PER_BLOCK = 64
_BYTES_PER_BLOCK = 2**19


class Store(Protocol):
    """Where the rows of one array are kept."""

    def resize(self, rows: int, like: Tensor, kept: int) -> Tensor:
        """Return room for this many rows like those of a batch, with those written so far.

        Args:
            rows: How many rows there is to be room for.
            like: A batch, shape (n, *); it tells the shape of a row, the dtype and the device.
            kept: How many rows have been written.
        """

    def finish(self, rows: int) -> Any:
        """Return the array of the rows written, of which there are this many."""


class Memory:
    """Rows kept in memory, on the device of the batches."""

    _array: Tensor

    def resize(self, rows: int, like: Tensor, kept: int) -> Tensor:
        """Return a tensor with room for the rows."""
        array = torch.empty((rows, *like.shape[1:]), dtype=like.dtype, device=like.device)
        if kept:
            array[:kept] = self._array[:kept]
        self._array = array
        return array

    def finish(self, rows: int) -> Tensor:
        """Return a tensor of the rows."""
        written = self._array[:rows]
        # On a CPU what was never written takes no memory; elsewhere it does.
        spare = rows < len(self._array) and written.device.type != "cpu"
        return written.clone() if spare else written


class Joiner:
    """The arrays that batches make when they are joined along their first dimension.

    Each batch is written where it belongs as soon as it is there, so that nothing is kept twice.
    Batches that cannot be joined (numbers, other objects, other dimensions that differ) end as a
    list with one entry per batch, or per example if their order is not that of the examples.

    Args:
        to_numpy: Whether the result is ndarrays; otherwise tensors on their device.
        num_rows: How many examples will come, if that is known.
        num_batches: How many batches will come, if that is known.
        order: The index of each example in the result, in the order in which they come, shape
            (N,); None if they come in order.
        store: Where the rows are kept, `Memory` if None. With one, batches that are no plain
            tensors cannot be joined.

    Attributes:
        joined: Whether all batches so far could be joined.
    """

    def __init__(
        self,
        *,
        to_numpy: bool = False,
        num_rows: int | None = None,
        num_batches: int | None = None,
        order: Tensor | None = None,
        store: Store | None = None,
    ) -> None:
        self._to_numpy = to_numpy
        self._num_rows = num_rows
        self._num_batches = num_batches
        self._order = order
        self._store = store
        self._structure: Any = None
        self._columns: list[_Column] = []
        self._only: _Column | None = None  # where a batch is one tensor: the short way
        self._batches: list[Any] | None = None
        self._is_first = True

    @property
    def joined(self) -> bool:
        """Whether all batches so far could be joined."""
        return self._batches is None

    def append(self, batch: Any, size: int | None, *, lasts: bool = False) -> None:
        """Take a batch.

        Args:
            batch: A tensor, or nested lists, tuples and mappings.
            size: How many examples it holds.
            lasts: Whether nobody will write into its memory again.
        """
        if self._only is not None and self._only.fits(batch):
            self._only.append(batch, lasts)
            return
        if self._batches is None:
            leaves = self._leaves(batch, size)
            if leaves is not None:
                for column, leaf in zip(self._columns, leaves, strict=True):
                    column.append(leaf, lasts)
                return
            self._only = None
            self._batches = list(self._written())
            self._columns = []
        self._batches.append(detached(batch, to_numpy=self._to_numpy, lasts=lasts))

    def result(self) -> Any:
        """Return all batches as one structure, or a list if they cannot be joined."""
        if self._batches is None:
            return self._rebuilt([column.finish() for column in self._columns])
        if self._order is None:
            return concatenate(self._batches)
        return _in_order(self._batches, self._order)

    def _leaves(self, batch: Any, size: int | None) -> list[Tensor] | None:
        """Return the tensors of a batch if they go with those before; None otherwise."""
        if self._is_first:
            self._structure = map_structure(batch, _nothing)
        leaves: list[Any] = []
        if not _collect(batch, self._structure, leaves):
            return None
        if self._is_first:
            self._is_first = False
            self._begin(leaves, size)
        fits = len(leaves) == len(self._columns) and all(
            column.fits(leaf) for column, leaf in zip(self._columns, leaves, strict=True)
        )
        return leaves if fits and leaves else None

    def _begin(self, leaves: list[Any], size: int | None) -> None:
        if not all(
            isinstance(leaf, Tensor) and leaf.ndim and _is_laid_out(leaf) for leaf in leaves
        ):
            return
        if self._order is not None and any(len(leaf) != size for leaf in leaves):
            return
        if self._store is not None and self._structure is not None:
            return
        for leaf in leaves:
            rows = self._num_rows if len(leaf) == size else None
            if rows is None:
                rows = len(leaf) * (self._num_batches or 64)
            column = _Column(
                leaf, max(1, rows), self._store or Memory(), self._order, self._to_numpy
            )
            self._columns.append(column)
        if self._structure is None:
            self._only = column

    def _written(self) -> Iterator[Any]:
        for leaves in zip(*[column.batches() for column in self._columns], strict=True):
            yield self._rebuilt(leaves)

    def _rebuilt(self, leaves: Iterable[Any]) -> Any:
        """Return leaves in the structure of a batch."""
        each = iter(leaves)

        def fill(_: None) -> Any:
            leaf = next(each)
            return leaf.numpy() if self._to_numpy and isinstance(leaf, Tensor) else leaf

        return map_structure(self._structure, fill)


class _Column:
    """The rows of one array; some batches are written at once, which costs little more than one."""

    def __init__(
        self, first: Tensor, rows: int, store: Store, order: Tensor | None, to_numpy: bool
    ) -> None:
        self._shape, self._dtype, self._device = first.shape, first.dtype, first.device
        tail = first.shape[1:]
        dtype = torch.float32 if to_numpy and first.dtype is torch.bfloat16 else first.dtype
        place = torch.device("cpu") if to_numpy else first.device
        self._like = torch.empty((0, *tail), dtype=dtype, device=place)
        self._as_is = dtype is first.dtype and place == first.device and order is None
        self._store = store
        self._order = None if order is None else order.to(place)
        self._array = store.resize(rows, self._like, 0)
        self._capacity = rows
        self._ends = [0]
        self._written = self._stop = 0
        self._waiting: list[Tensor] = []
        size = first.element_size() * first.numel()
        most = min(_BATCHES_PER_BLOCK, _BYTES_PER_BLOCK // max(1, size))
        self._most_waiting = max(1, most) if type(first) is Tensor else 1

    def fits(self, leaf: Any) -> bool:
        if not isinstance(leaf, Tensor) or leaf.dtype is not self._dtype:
            return False
        if leaf.layout is not torch.strided or leaf.is_nested:
            return False
        if leaf.shape != self._shape and (leaf.ndim == 0 or leaf.shape[1:] != self._shape[1:]):
            return False
        return leaf.device == self._device

    def append(self, leaf: Tensor, lasts: bool) -> None:
        if leaf.requires_grad:
            leaf = leaf.detach()
        # Of what waits somebody may overwrite the memory; a copy takes less time than to write it.
        waits = self._most_waiting > 1
        self._waiting.append(leaf.clone() if waits and not lasts else leaf)
        self._stop += leaf.shape[0]
        self._ends.append(self._stop)
        if len(self._waiting) >= self._most_waiting:
            self._write()

    def batches(self) -> Iterator[Tensor]:
        self._write()
        for start, stop in pairwise(self._ends):
            rows = slice(start, stop) if self._order is None else self._order[start:stop]
            yield self._array[rows]

    def finish(self) -> Any:
        self._write()
        return self._store.finish(self._stop)

    def _write(self) -> None:
        start, stop = self._written, self._stop
        if not self._waiting:
            return
        if stop > self._capacity:
            self._capacity = max(stop, 2 * self._capacity)
            self._array = self._store.resize(self._capacity, self._like, start)
        if self._as_is:
            torch.cat(self._waiting, out=self._array[start:stop])
        else:
            rows: Any = slice(start, stop) if self._order is None else self._order[start:stop]
            self._array[rows] = torch.cat(self._waiting).to(self._like)
        self._waiting = []
        self._written = stop


def _is_laid_out(leaf: Tensor) -> bool:
    """Tell whether a tensor is neither sparse nor nested, so that it has rows in memory."""
    return leaf.layout is torch.strided and not leaf.is_nested


def _nothing(leaf: Any) -> None:
    """Stand for a leaf where only the structure counts."""


def _collect(batch: Any, structure: Any, leaves: list[Any]) -> bool:
    """Add the leaves of a batch in the order of a structure, if it has that structure.

    Args:
        batch: A leaf, or nested lists, tuples and mappings; their keys may be in another order.
        structure: The same of None.
        leaves: Where they are added.
    """
    if isinstance(structure, dict):
        return (
            isinstance(batch, Mapping)
            and len(batch) == len(structure)
            and all(
                key in batch and _collect(batch[key], part, leaves)
                for key, part in structure.items()
            )
        )
    if isinstance(structure, PackedSequence):
        return False
    if isinstance(structure, list | tuple):
        alike = type(batch) is type(structure) and len(batch) == len(structure)
        return alike and all(map(_collect, batch, structure, repeat(leaves)))
    leaves.append(batch)
    return not isinstance(batch, Mapping | list | tuple)


def _in_order(batches: list[Any], order: Tensor) -> list[Any]:
    """Return one entry per example, in order."""
    places = iter(order.tolist())
    examples: dict[int, Any] = {}
    for batch in batches:
        leaves: list[Any] = []
        map_structure(batch, leaves.append)
        odd = next((leaf for leaf in leaves if not getattr(leaf, "ndim", 0)), None)
        if odd is not None or not leaves:
            raise DataError(
                "bucket_by reads the examples in another order, and the network returned "
                f"{kind_of(odd)} for a batch, which has no entry per example to put back in place. "
                "Leave bucket_by out, or choose an output with prediction_key."
            )
        for row in range(len(leaves[0])):
            examples[next(places)] = map_structure(batch, itemgetter(row))
    return [examples[index] for index in sorted(examples)]
