"""Datasets that are arrays at heart, taken as arrays once."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset as TorchTensorDataset

from clarion.data.dataset import TensorDataset
from clarion.data.nested import from_numpy, map_structure

__all__ = ["arrays_of", "is_hugging_face"]

_MOST_BYTES = 2**30  # of what is copied into memory
_FORMATS = (None, "torch")


def arrays_of(dataset: Any) -> Any:
    """Return the arrays whose rows are the examples of a dataset, or None if there are none.

    Args:
        dataset: A dataset. Those of tensors are understood, a ``Subset`` and a ``ConcatDataset``
            of them, and those of Hugging Face whose columns are numbers, or lists of numbers that
            are all of one length, as far as they are not transformed on the fly. More than a
            gigabyte is not copied for it: then there are none.
    """
    if type(dataset) in (TensorDataset, TorchTensorDataset):
        return tuple(dataset.tensors)
    if type(dataset) is Subset:
        whole = arrays_of(dataset.dataset)
        if whole is None or _bytes_per_row(whole) * len(dataset) > _MOST_BYTES:
            return None
        rows = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return map_structure(whole, lambda leaf: _as_tensor(leaf)[rows])
    if type(dataset) is ConcatDataset:
        return _joined([arrays_of(part) for part in dataset.datasets])
    return _columns(dataset) if is_hugging_face(dataset) else None


def is_hugging_face(dataset: Any) -> bool:
    """Tell whether something is a dataset of Hugging Face, with columns and a format."""
    kind = type(dataset)  # asked of the type, since a mock has every attribute
    return hasattr(kind, "with_format") and hasattr(kind, "column_names")


def _joined(parts: list[Any]) -> Any:
    if any(type(part) is not tuple for part in parts):
        return None
    columns = list(zip(*parts, strict=False))
    plain = all(isinstance(leaf, Tensor) for column in columns for leaf in column)
    if not plain or len({len(part) for part in parts}) > 1:
        return None
    if any(len({(leaf.dtype, leaf.shape[1:]) for leaf in column}) > 1 for column in columns):
        return None
    if sum(leaf.nbytes for column in columns for leaf in column) > _MOST_BYTES:
        return None
    return tuple(torch.cat(column) for column in columns)


def _columns(dataset: Any) -> dict[str, Tensor] | None:
    """Return the columns of a table that are numbers throughout, as its format "torch" does."""
    kind = getattr(type(dataset), "format", None)
    chosen = dataset.format if kind is not None else {}
    if chosen.get("type", "") not in _FORMATS or chosen.get("format_kwargs"):
        return None
    if chosen.get("output_all_columns") or dataset.data.nbytes > _MOST_BYTES:
        return None
    table = dataset.with_format("arrow", columns=chosen["columns"])[:]
    columns: dict[str, Tensor] = {}
    for name in table.column_names:
        numbers = _numbers(table.column(name))
        if numbers is None:
            return None
        kinds = {"f": np.float32, "b": np.bool_}
        numbers = numbers.astype(kinds.get(numbers.dtype.kind, np.int64), copy=False)
        columns[name] = from_numpy(numbers)
    return columns or None


def _numbers(column: Any) -> np.ndarray | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if column.null_count or not len(column):
        return None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        return None
    bounds = pc.min_max(pc.list_value_length(column)).as_py()
    if bounds["min"] != bounds["max"] or not bounds["min"]:
        return None
    inner = _numbers(pc.list_flatten(column))
    return None if inner is None else inner.reshape(len(column), bounds["min"], *inner.shape[1:])


def _bytes_per_row(arrays: Any) -> int:
    sizes: list[int] = []
    map_structure(arrays, lambda leaf: sizes.append(leaf[:1].nbytes))
    return sum(sizes)


def _as_tensor(leaf: Any) -> Tensor:
    return from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf
