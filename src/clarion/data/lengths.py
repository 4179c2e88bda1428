"""The lengths of the examples of a dataset, found without loading them where possible."""

from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from clarion.data.nested import from_numpy
from clarion.data.tables import is_hugging_face
from clarion.errors import DataError, InvalidTypeError, kind_of, quoted, suggestion

__all__ = ["lengths_of"]

_LENGTH = "length"
_TEXT = "input_ids"
_FEW = 8  # asking for one row in so many takes about as long as reading the whole column


def lengths_of(dataset: Any, by: str | Callable[[Any], int], name: str = "dataset") -> Tensor:
    """Return the length of each example of a dataset.

    Args:
        dataset: A dataset with examples by index. Of one of Hugging Face a column is read, not
            the examples; an attribute ``lengths`` of another one is taken as it is. Of a `Subset`
            only its own rows are measured, each once.
        by: ``"length"`` for the entry of that name, else the length of ``input_ids``, of an array
            or sequence, or of the first of a pair; the name of another entry (of a mapping, or of
            one that is the first of a pair), a number or something with a length; or a function
            from an example to its length.
        name: What an error calls the dataset.

    Returns:
        Shape (N,), on the CPU.

    Raises:
        InvalidTypeError: If ``by`` is nothing of these.
        DataError: If there is no such entry, or an example has no length.
    """
    if not isinstance(by, str) and not callable(by):
        raise InvalidTypeError(
            f'bucket_by is {kind_of(by)}; it is "length", the name of another entry, or a function '
            "from an example to its length."
        )
    rows = None
    while isinstance(dataset, Subset):
        inner = torch.as_tensor(dataset.indices, dtype=torch.int64)
        rows = inner if rows is None else inner[rows]
        dataset = dataset.dataset
    if rows is None:
        return _lengths(dataset, by, name, None)
    rows = torch.where(rows < 0, rows + len(dataset), rows)
    used, place = rows.unique(return_inverse=True)
    return _lengths(dataset, by, name, used)[place]


def _lengths(
    dataset: Any, by: str | Callable[[Any], int], name: str, rows: Tensor | None
) -> Tensor:
    """Return the lengths of some rows of a dataset, or of all."""
    if isinstance(by, str) and is_hugging_face(dataset):
        found = _of_column(dataset, by, name, rows)
        if found is not None:
            return found
    given = getattr(dataset, "__dict__", {}).get("lengths") if by == _LENGTH else None
    if given is not None and len(given) == len(dataset):
        lengths = torch.as_tensor(given).cpu()
        return lengths if rows is None else lengths[rows]
    measure = _Called(by, name) if callable(by) else _Measure(by, name)
    places = range(len(dataset)) if rows is None else rows.tolist()
    measured = []
    for row in places:
        try:
            measured.append(measure(dataset[row]))
        except Exception as error:
            error.add_note(f"This happened while bucket_by measured row {row} of {name}.")
            raise
    return torch.as_tensor(measured)


def _of_column(dataset: Any, by: str, name: str, rows: Tensor | None) -> Tensor | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = dataset.column_names
    key = _TEXT if by == _LENGTH and by not in names and _TEXT in names else by
    if key not in names:
        raise DataError(_missing(key, names, name))
    table = dataset.with_format("arrow", columns=[key])
    if rows is not None and _FEW * len(rows) < len(dataset):
        table, rows = table[rows.tolist()], None
    else:
        table = table[:]
    column = table.column(key)
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        column = pc.list_value_length(column)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = pc.utf8_length(column)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    lengths, empty = np.asarray(column.to_numpy()), column.is_null().to_numpy()
    if rows is not None:
        lengths, empty = lengths[rows.numpy()], empty[rows.numpy()]
    if empty.any():
        raise DataError(f'{name}: {empty.sum()} examples have no "{key}" to take a length of.')
    return from_numpy(lengths)


class _Called:
    """The length of an example, by a function of the user's."""

    def __init__(self, function: Callable[[Any], Any], name: str) -> None:
        self._function = function
        self._name = name

    def __call__(self, example: Any) -> int:
        length = self._function(example)
        try:
            return int(length)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"bucket_by returned {kind_of(length)} for an example of {self._name}; it returns "
                "the length of the example, a number."
            ) from error


class _Measure:
    """The length of an example, by the name of an entry."""

    def __init__(self, by: str, name: str) -> None:
        self._by = by
        self._name = name

    def __call__(self, example: Any) -> int:
        value = example[0] if isinstance(example, tuple) and example else example
        if isinstance(value, Mapping):
            key = self._by
            if key == _LENGTH and key not in value and _TEXT in value:
                key = _TEXT
            if key not in value:
                raise DataError(_missing(key, list(value), self._name))
            value = value[key]
        elif self._by != _LENGTH:
            raise DataError(
                f"bucket_by: an example of {self._name} is {kind_of(example)} without names, so it "
                f'has no "{self._by}". Pass "length" for the length of an array or of the first of '
                "a pair, or a function from an example to its length."
            )
        if isinstance(value, Tensor | np.ndarray) and not value.ndim:
            value = value.item()
        if isinstance(value, int | float):
            return int(value)
        if isinstance(value, Sized):
            return len(value)
        raise DataError(
            f"{self._name}: an example, {kind_of(example)}, has no length. Pass "
            "bucket_by=function, from an example to its length."
        )


def _missing(key: str, names: list[str], name: str) -> str:
    hint = suggestion(key, [*names, _LENGTH] if _TEXT in names else names) or "."
    return (
        f'bucket_by: {name} has no "{key}"{hint} It has {quoted(names)}. Pass one of these, or a '
        "function from an example to its length."
    )
