"""Spans of time as people write them."""

import re
from typing import Any

from clarion.errors import InvalidArgumentError

__all__ = ["seconds_of"]

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)(?![a-z])", re.IGNORECASE)


def seconds_of(name: str, value: Any) -> float:
    """Return how many seconds a span of time lasts.

    Args:
        name: The argument it was given for, for errors.
        value: A positive number of seconds, or text such as ``"90s"``, ``"10min"``, ``"1.5h"``,
            ``"1h 30min"`` or ``"2d"``.

    Raises:
        InvalidArgumentError: If it is nothing of these.

    Example:
        >>> seconds_of("max_time", "1h 30min"), seconds_of("max_time", 20)
        (5400.0, 20.0)
    """
    seconds = _parsed(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidArgumentError(
            f"{name} is {value!r}; it must be a positive number of seconds, or text such as "
            '"90s", "10min", "2h" or "1h 30min".'
        )
    return float(seconds)


def _parsed(text: str) -> float | None:
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        return None
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)
