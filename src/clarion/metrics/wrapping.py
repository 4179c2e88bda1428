"""What users pass as losses and metrics, turned into objects with a state and names."""

import copy
import functools
import re
from collections.abc import Sequence
from typing import Any

from clarion.errors import InvalidArgumentError, InvalidTypeError, quoted
from clarion.metrics.decomposable import (
    DecomposableMetric,
    convert_decomposable_metric_to_object,
    is_stateful,
)
from clarion.metrics.names import (
    Names,
    flatten_metric_names,
    get_names_of_metric,
    rename_doubles,
)
from clarion.metrics.registry import get_metric, named_elsewhere

__all__ = ["original_names", "wrap_loss", "wrap_metric", "wrap_metrics"]

_TAKEN = frozenset({"batch", "epoch", "loss", "lr", "size", "time"})
"""The names of what logs hold beside metrics; loggers add ``lr``, or ``lr_group_<i>``."""


def wrap_loss(loss_function: Any) -> Any:
    """Return a loss function as a metric named ``loss`` that can be called for its gradient.

    Args:
        loss_function: A callable ``(y_pred, y_true)``, the name of one, a pair ``(name, loss)``
            whose name is not used, a stateful metric, or None.

    Returns:
        A `DecomposableMetric`, the stateful metric itself, or None.

    Raises:
        UnknownNameError: If the name is not known.
        InvalidTypeError: If it cannot be called.
        InvalidArgumentError: If the name is that of a metric without a gradient.
    """
    if loss_function is None:
        return None
    _, function = get_names_of_metric(get_metric(loss_function))
    _check_callable(function, "loss_function")
    if isinstance(loss_function, str) and is_stateful(function):
        near = named_elsewhere(loss_function)
        other = "" if near else ', and choose a loss such as "cross_entropy"'
        raise InvalidArgumentError(
            f'"{loss_function}" is a metric without a gradient, which cannot be a loss'
            f"{near or '.'} Put it into batch_metrics or epoch_metrics{other}."
        )
    return convert_decomposable_metric_to_object(function, "loss")


def wrap_metrics(
    batch_metrics: Sequence[Any] | None, epoch_metrics: Sequence[Any] | None
) -> tuple[list[Any], list[Names], list[Any], list[Names]]:
    """Return batch metrics and their names, then epoch metrics and their names.

    Args:
        batch_metrics: Callables, metrics, names, or pairs ``(names, one of these)``.
        epoch_metrics: The same, for those that are shown only at the end.

    Returns:
        Metric objects with a state; their names as they stand in the logs (a list for a metric
        with several values), numbered where they would occur twice over both lists. An object that
        occurs twice is copied for its second place, since each place has sums of its own.

    Raises:
        UnknownNameError: If a name is not known.
        InvalidTypeError: If something is no metric.
        InvalidArgumentError: If a metric has a name that the logs keep for themselves or would give
            to another value too, or one that occurs twice cannot be copied.
    """
    batch, batch_names = _wrapped_list(batch_metrics, "batch_metrics", is_epoch_metric=False)
    epoch, epoch_names = _wrapped_list(epoch_metrics, "epoch_metrics", is_epoch_metric=True)
    _separate(batch, epoch)
    batch_names, epoch_names = rename_doubles(batch_names, epoch_names)
    flat = flatten_metric_names([*batch_names, *epoch_names])
    taken = [name for name in flat if name in _TAKEN or re.fullmatch(r"lr_group_\d+", name)]
    if taken:
        raise InvalidArgumentError(
            f'A metric is called "{min(taken)}", but the logs keep {quoted(sorted(_TAKEN))} and '
            '"lr_group_<i>" for themselves. Rename it with a pair, as in ("my_name", metric).'
        )
    _check_apart(flat)
    return batch, batch_names, epoch, epoch_names


def wrap_metric(
    metric: Any, *, argument: str = "metric", is_epoch_metric: bool = False
) -> tuple[Any, Names]:
    """Return one metric as an object with a state, then its name or names.

    Args:
        metric: A callable, a metric, a name, or a pair ``(names, one of these)``.
        argument: The argument it came from, for messages.
        is_epoch_metric: Whether it will be updated rather than called.
    """
    names, found = get_names_of_metric(get_metric(metric))
    _check_callable(found, argument)
    _check_names(names, found, argument)
    return convert_decomposable_metric_to_object(found, names, is_epoch_metric), names


def original_names(metric: Any) -> Names | None:
    """Return the names that a metric itself gives its values, None if it has no names.

    They are the keys of the mapping that it may return, whatever the logs call its values.
    """
    if issubclass(type(metric), DecomposableMetric):
        return metric.keys  # type: ignore[no-any-return]
    names: Names | None = getattr(metric, "__name__", None)
    return names


def _wrapped_list(
    metrics: Sequence[Any] | None, argument: str, *, is_epoch_metric: bool
) -> tuple[list[Any], list[Names]]:
    if metrics is None:
        return [], []
    if isinstance(metrics, str) or not hasattr(metrics, "__iter__"):
        raise InvalidTypeError(
            f"{argument} is a list of metrics; got {metrics!r}. Write {argument}=[...] around it."
        )
    wrapped = [
        wrap_metric(metric, argument=argument, is_epoch_metric=is_epoch_metric)
        for metric in metrics
    ]
    return [metric for metric, _ in wrapped], [names for _, names in wrapped]


def _check_apart(names: list[str]) -> None:
    """Raise if two values would stand under one name in the logs of an epoch, where one is lost."""
    validated = {f"val_{name}" for name in ("loss", *names)}
    shared = [name for name in names if names.count(name) > 1 or name in validated]
    if shared:
        raise InvalidArgumentError(
            f'Two values would be called "{min(shared)}" in the logs: names that occur twice get '
            'numbers, as in "acc1", and those of validation get "val_" before them. Rename the '
            'metric with a pair, as in ("my_name", metric).'
        )


def _separate(*lists: list[Any]) -> None:
    """Put a copy in the place of each metric that has occurred before."""
    seen: set[int] = set()
    for metrics in lists:
        for place, metric in enumerate(metrics):
            if id(metric) in seen:
                metrics[place] = _copied(metric)
            seen.add(id(metric))


def _copied(metric: Any) -> Any:
    try:
        return copy.deepcopy(metric)
    except Exception as error:
        raise InvalidArgumentError(
            f"The {type(metric).__name__} {metric!r} stands twice among the metrics, which needs a "
            f"second object with sums of its own, and it cannot be copied: {error}. Build another."
        ) from error


def _check_callable(metric: Any, argument: str) -> None:
    if isinstance(metric, type):
        raise InvalidTypeError(
            f"{argument} got the class {metric.__name__}; it needs an object of it: "
            f"{metric.__name__}(...)."
        )
    if not callable(metric):
        raise InvalidTypeError(
            f"{argument} got {metric!r}, a {type(metric).__name__}. Expected a name, a callable "
            "(y_pred, y_true), a metric with compute and reset, or a pair (name, one of these)."
        )
    inner = metric
    while isinstance(inner, functools.partial):
        inner = inner.func
    if str(getattr(inner, "__module__", "")).startswith("sklearn."):
        name = getattr(inner, "__name__", type(inner).__name__)
        raise InvalidTypeError(
            f"{argument} got {name} of scikit-learn, which takes y_true first and all rows at "
            f"once: use epoch_metrics=[SKLearnMetrics({name})]."
        )


def _check_names(names: Any, metric: Any, argument: str) -> None:
    listed = [names] if isinstance(names, str) else names
    if isinstance(listed, list | tuple) and all(isinstance(name, str) for name in listed):
        return
    raise InvalidTypeError(
        f"{argument}: the name of a metric is a str or a list of str; got {names!r} for {metric!r}."
    )
