"""The values that a metric returned, one for each of its names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clarion.errors import InvalidArgumentError, InvalidTypeError, kind_of, quoted

__all__ = ["check_count", "values_by_name", "values_in_order"]

_LOSS = ["loss"]  # what the loss is called among the metrics


def check_count(count: int, names: Sequence[str]) -> None:
    """Raise a ``ValueError`` unless a metric returned as many values as it has names.

    Raises:
        InvalidArgumentError: If the numbers differ.
    """
    if count == len(names):
        return
    if list(names) == _LOSS:
        raise InvalidArgumentError(
            f"The loss function returned {_counted(count, 'value')}; a loss is one number, the "
            'mean over the batch. End it with .mean(), or leave out reduction="none".'
        )
    raise InvalidArgumentError(
        f"The metric {quoted(names)} returned {_counted(count, 'value')} for "
        f"{_counted(len(names), 'name')}. Name each value, as in "
        '(("name", "other"), metric), or return one number per name.'
    )


def values_by_name(
    value: Any, names: Sequence[str], keys: Sequence[str] | None = None
) -> dict[str, Tensor | float]:
    """Return what a metric returned as one value a name, without reading tensors on the host.

    Args: see `values_in_order`.

    Returns:
        0-d tensors for what was a tensor, floats for everything else.

    Raises:
        InvalidArgumentError: If there are more or fewer values than names.
    """
    if len(names) == 1:  # as most have
        if type(value) is float:
            return {names[0]: value}
        if isinstance(value, Tensor) and value.ndim == 0:
            return {names[0]: value.detach()}
    return dict(zip(names, values_in_order(value, names, keys), strict=True))


def values_in_order(
    value: Any, names: Sequence[str], keys: Sequence[str] | None = None
) -> list[Tensor | float]:
    """Return what a metric returned as a list with one value a name, in the order of the names.

    Args:
        value: A number, a tensor, an array, a list or tuple of them, or a mapping.
        names: The names of the values in the logs.
        keys: The keys of a mapping in the order of ``names``, where they differ because a double
            was renamed. A mapping that lacks some of them is taken in its own order.

    Raises:
        InvalidArgumentError: If there are more or fewer values than names, or a name is the key of
            another value.
        InvalidTypeError: If a value is not a number.
    """
    values = _unpacked(value, names, keys)
    check_count(len(values), names)
    return [_scalar(one, names) for one in values]


def _unpacked(value: Any, names: Sequence[str], keys: Sequence[str] | None) -> Sequence[Any]:
    if isinstance(value, Tensor):
        return [value] if value.ndim == 0 else value.reshape(-1).unbind()
    if isinstance(value, np.ndarray):
        return list(value.reshape(-1))
    if isinstance(value, Mapping):
        return _from_mapping(value, names, keys)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return list(value)
    return [value]


def _from_mapping(
    value: Mapping[Any, Any], names: Sequence[str], keys: Sequence[str] | None
) -> Sequence[Any]:
    for wanted in (keys, names):
        if wanted and all(key in value for key in wanted):
            return [value[key] for key in wanted]
    given = list(value)
    if any(key in value and given.index(key) != place for place, key in enumerate(keys or names)):
        raise InvalidArgumentError(
            f"The metric {quoted(names)} returned a mapping with the keys {quoted(given)}: a name "
            "that is the key of another value cannot be meant. Name the keys themselves, in any "
            "order, or give new names to all of them, in this one."
        )
    return list(value.values())


def _scalar(value: Any, names: Sequence[str]) -> Tensor | float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().reshape(())
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        if list(names) == _LOSS:
            raise InvalidTypeError(
                f"The loss function returned {kind_of(value)}; a loss is one number, a tensor "
                "of shape (). Let the function end with a return."
            ) from error
        raise InvalidTypeError(
            f"The metric {quoted(names)} returned {_described(value)} where one number per name "
            "was expected. Reduce it to a number, with .mean() for example."
        ) from error


def _described(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    return f"{torch.typename(value)} {value!r}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
