"""Batches that wait to be counted together: an operation on many numbers costs no more."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["MOST_BATCHES", "Later", "add_batches_ago", "is_small", "lasting", "portions"]

MOST_BATCHES = 64
"""How many batches wait at most."""

_MOST_BYTES = 2**17  # of a tensor: to count more than that at once saves nothing


def is_small(value: Any) -> bool:
    """Tell whether something is one tensor, of a size at which counting it alone is a waste.

    Sparse and nested ones are not: torch does not know their bytes, or cannot stack them.
    """
    return (
        type(value) is Tensor
        and value.layout is torch.strided
        and not value.is_nested
        and value.nbytes <= _MOST_BYTES
    )


def lasting(value: Tensor) -> Tensor:
    """Return the values of a tensor, detached, so that they stay what they are.

    What an operation has just returned for its gradient is nobody else's; everything else, such as
    a view of a weight or the buffer of a loader, may be overwritten, and is copied.
    """
    if value.grad_fn is not None and value._base is None:
        return value.detach()
    return value.detach().clone()


def portions(waiting: int, count: int) -> Iterator[slice]:
    """Yield which of some batches to add at a time, so that no block has more than it may.

    Args:
        waiting: How many batches wait already.
        count: How many there are to add.
    """
    start = 0
    while start < count:
        stop = min(count, start + MOST_BATCHES - waiting)
        yield slice(start, stop)
        start, waiting = stop, 0


def add_batches_ago(error: Exception, batches: int) -> None:
    """Have an error tell that more batches have come after the last one that it knows of."""
    error.batches_ago = getattr(error, "batches_ago", 0) + batches  # type: ignore[attr-defined]


class Later:
    """The value of a metric for one batch, computed if somebody asks for it.

    Args:
        metric: The metric; its ``alone(y_pred, y_true)`` is what is asked for.
        y_pred: The prediction, detached.
        y_true: The target.
    """

    __slots__ = ("_metric", "_y_pred", "_y_true")

    def __init__(self, metric: Any, y_pred: Any, y_true: Any) -> None:
        self._metric = metric
        self._y_pred = y_pred
        self._y_true = y_true

    def value(self) -> Any:
        """Return the value: a tensor on the device, or a number for which nobody waits."""
        return self._metric.alone(self._y_pred, self._y_true)
