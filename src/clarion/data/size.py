"""How many examples a batch holds."""

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Told", "agreed_size", "get_batch_size", "warning_settings"]

warning_settings: dict[str, str] = {"batch_size": "warn"}
"""Set ``warning_settings["batch_size"] = "ignore"`` to silence ``get_batch_size``."""


_ARRAYS = (Tensor, np.ndarray)  # asked of each batch: a union written there would be built anew


def get_batch_size(*values: Any) -> int:
    """Return the number of examples that the values hold.

    Each rule is tried on all values before the next one: the length of a tensor or ndarray; of
    the first entry of a list or tuple; the ``batch_size`` entry of a mapping; the length of a
    mapping's first value. If none fits, the size is 1, and a warning says so.

    Args:
        values: What belongs to one batch, for example ``x, y`` or ``y_pred, y_true``.
    """
    for rule in _RULES:
        for value in values:
            size = rule(value)
            if size is not None:
                return size
    if warning_settings["batch_size"] != "ignore":
        warnings.warn(
            "The number of examples of a batch could not be told from its values, so it counts "
            'as 1 in averages. Give it a "batch_size" entry, or silence this with '
            'clarion.warning_settings["batch_size"] = "ignore".',
            stacklevel=2,
        )
    return 1


class Told(int):
    """A number of examples that the user told, which is not to be doubted."""


def agreed_size(y_pred: Any, y_true: Any, size: int | None) -> int:
    """Return the number of examples that two of three agree on, if two do.

    Not everything has its examples first: a recurrent network returns its state, shape
    (layers, N, *), or scores of shape (T, N, C).

    Args:
        y_pred: The prediction.
        y_true: The target.
        size: The number of examples as the inputs of the batch tell it, which is believed where
            nobody agrees, or as the user told it (`Told`); None if nobody knows.
    """
    if size is None:
        return get_batch_size(y_pred, y_true)
    if type(size) is Told or (type(y_true) is Tensor and y_true.ndim and y_true.size(0) == size):
        return size  # asked of each batch: most targets agree with the inputs
    given = _told_by(y_true)
    return given if given is not None and given == _told_by(y_pred) else size


def _told_by(value: Any) -> int | None:
    return next((size for rule in _RULES if (size := rule(value)) is not None), None)


def _of_array(value: Any) -> int | None:
    if not isinstance(value, _ARRAYS) or value.ndim == 0:
        return None
    # torch has no len of nested tensors.
    return len(value.unbind() if isinstance(value, Tensor) and value.is_nested else value)


def _of_sequence(value: Any) -> int | None:
    return _of_array(value[0]) if isinstance(value, list | tuple) and value else None


def _of_entry(value: Any) -> int | None:
    size = value.get("batch_size") if isinstance(value, Mapping) else None
    return int(size) if isinstance(size, Integral) else None


def _of_mapping(value: Any) -> int | None:
    return _of_array(next(iter(value.values()))) if isinstance(value, Mapping) and value else None


_RULES = (_of_array, _of_sequence, _of_entry, _of_mapping)
