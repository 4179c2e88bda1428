"""What a callback watches: whether it is there, and whether it got better."""

import math
import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, Protocol

from clarion.errors import InvalidArgumentError, MissingMonitorError, suggestion

__all__ = [
    "Mode",
    "Watcher",
    "check_mode",
    "check_patience",
    "check_watchable",
    "improves",
    "watched",
    "worst",
]

Mode = Literal["min", "max"]
"""The direction in which a watched value gets better."""

_PASS_DATA = "Pass validation data to fit, or monitor one of these."


class Watcher(Protocol):
    """A callback that watches a key of the epoch logs."""

    monitor: str


def check_mode(owner: str, mode: str) -> None:
    """Raise unless ``mode`` is ``"min"`` or ``"max"``.

    Args:
        owner: The name of the callback, for the error.
        mode: What the user gave.

    Raises:
        InvalidArgumentError: If it is neither.
    """
    if mode not in ("min", "max"):
        raise InvalidArgumentError(
            f'{owner}(mode={mode!r}): the mode is "min" (less is better) or "max" (more is better).'
        )


def check_patience(owner: str, patience: Any) -> None:
    """Raise unless the patience is a number of at least 0; infinity is one.

    Args:
        owner: The name of the callback, for the error.
        patience: What the user gave.

    Raises:
        InvalidArgumentError: If it is anything else.
    """
    # bool is a number for Python, and nan is at least nothing.
    if isinstance(patience, bool) or not isinstance(patience, Real) or not float(patience) >= 0:
        raise InvalidArgumentError(
            f"{owner}: patience is {patience!r}; it must be a number of epochs of at least 0."
        )


def worst(mode: str) -> float:
    """Return the value that every other value is better than."""
    return math.inf if mode == "min" else -math.inf


def improves(current: float, best: float, mode: str, min_delta: float = 0.0) -> bool:
    """Return whether ``current`` is better than ``best`` by more than ``min_delta``.

    A nan is never better.

    Example:
        >>> improves(0.4, 0.5, "min"), improves(0.4, 0.5, "min", min_delta=0.2)
        (True, False)
    """
    if mode == "min":
        return bool(current < best - min_delta)
    return bool(current > best + min_delta)


def watched(callback: Watcher, logs: Mapping[str, Any], epoch_number: int) -> float:
    """Return the value that ``callback`` watches.

    Args:
        callback: Has the key in its attribute ``monitor``.
        logs: The logs of the end of an epoch.
        epoch_number: The epoch, for the error.

    Raises:
        MissingMonitorError: If the logs do not hold the key; it lists what they hold.
    """
    key = callback.monitor
    if key in logs:
        return float(logs[key])
    hint, remedy = _help(key, list(logs))
    raise MissingMonitorError(
        f'{type(callback).__name__}(monitor="{key}"): no such key at the end of epoch '
        f"{epoch_number}{hint or '.'} The logs hold: {', '.join(logs)}.\n{remedy}"
    )


def check_watchable(callback: Watcher) -> None:
    """Say before the first epoch what would go wrong at its end.

    Other callbacks may add keys to the logs, so only what is certain is an error: that the loss or
    a metric of a validation is watched, and there is none. A key that looks misspelt is a warning.

    Args:
        callback: Has the key in its attribute ``monitor``, and perhaps a model.

    Raises:
        MissingMonitorError: If it is certain that the logs will not hold the key.
    """
    key = callback.monitor
    model = getattr(callback, "model", None)
    names = getattr(model, "metrics_names", None)
    if not isinstance(names, list):
        return
    measured = ["loss", *names]
    known = ["epoch", "time", *measured]
    validates = getattr(model, "validates", None)  # None: not known
    if validates is not False:
        sets = getattr(model, "validation_names", [])
        prefixes = ["val_", *(f"val_{name}_" for name in sets)]
        known += [f"{prefix}{name}" for prefix in prefixes for name in measured]
    if key in known:
        return
    name = type(callback).__name__
    if key.removeprefix("val_") in measured:
        raise MissingMonitorError(
            f'{name}(monitor="{key}"): there is no validation data, so the logs will not hold it. '
            f"They will hold: {', '.join(known)}.\n{_PASS_DATA}"
        )
    if hint := suggestion(key, known):
        warnings.warn(
            f'{name}(monitor="{key}"): no metric has this name{hint} '
            "If no callback adds it to the logs, the training ends after its first epoch.",
            stacklevel=4,
        )


def _help(key: str, known: list[str]) -> tuple[str, str]:
    """Return the nearest name as ``suggestion`` gives it, and what to do."""
    if key.startswith("val_") and not any(name.startswith("val_") for name in known):
        if key.removeprefix("val_") in known:
            return "", _PASS_DATA
        return suggestion(key, known), _PASS_DATA
    return suggestion(key, known), "Monitor one of these."
