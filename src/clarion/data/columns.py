"""The targets of all examples, where they can be known before the first batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset as TorchTensorDataset

from clarion.data.arrays import is_table
from clarion.data.dataset import TensorDataset
from clarion.data.nested import from_numpy

__all__ = ["class_labels", "targets_of"]

_TARGET_NAMES = ("targets", "labels", "label")


def class_labels(data: Any, target_keys: Sequence[str] = ("labels", "label")) -> Tensor | None:
    """Return the class of each example where the targets are class indices, else None.

    Args: see `targets_of`.

    Returns:
        Shape (N,), integer, on the CPU; None for other targets, and where reading them would mean
        reading every example.
    """
    targets = targets_of(data, target_keys)
    if targets is None or targets.is_floating_point() or targets.is_complex():
        return None
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    return targets.cpu() if targets.ndim == 1 else None


def targets_of(data: Any, target_keys: Sequence[str] = ("labels", "label")) -> Tensor | None:
    """Return the targets of all examples where they are at hand as one array, else None.

    Args:
        data: A pair of arrays ``(x, y)``, with weights a triple, a mapping of arrays, or a dataset
            that is no list: one of tensors, one of Hugging Face, one with an attribute ``targets``
            or ``labels``, as those of torchvision have, or a ``Subset`` of these.
        target_keys: The keys of mappings that hold the target.
    """
    if isinstance(data, Subset):
        whole = targets_of(data.dataset, target_keys)
        return None if whole is None else whole[torch.as_tensor(data.indices, dtype=torch.int64)]
    if isinstance(data, TensorDataset | TorchTensorDataset):
        return _as_column(data.tensors[-1]) if len(data.tensors) > 1 else None
    if hasattr(type(data), "column_names") and hasattr(type(data), "select"):
        key = next((key for key in target_keys if key in data.column_names), None)
        return None if key is None else _as_column(data.with_format(None)[key][:])
    if isinstance(data, Mapping):
        key = next((key for key in target_keys if key in data), None)
        return None if key is None else _as_column(data[key])
    if isinstance(data, list | tuple):
        return _as_column(data[1]) if len(data) in (2, 3) else None
    found = (getattr(data, "__dict__", {}).get(name) for name in _TARGET_NAMES)
    column = next((_as_column(value) for value in found if value is not None), None)
    return column if column is not None and len(column) == len(data) else None


def _as_column(value: Any) -> Tensor | None:
    """Return an array of numbers as a tensor; None for everything else."""
    if isinstance(value, Tensor):
        return value if value.ndim else None
    if hasattr(value, "to_numpy"):
        value = np.asarray(value.to_numpy())
    if is_table(value):
        try:
            value = np.asarray(value)
        except ValueError:  # rows of different lengths, as labels of tokens are
            return None
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.ndim:
        return from_numpy(value)
    return None
