"""Unknown keyword arguments, answered with the nearest known name."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from clarion.errors import UnknownArgumentError, quoted, suggestion

__all__ = ["checked_arguments"]

P = ParamSpec("P")
R = TypeVar("R")


def checked_arguments(func: Callable[P, R]) -> Callable[P, R]:
    """Return the function with a helpful error for keyword arguments that it does not have.

    Raises:
        UnknownArgumentError: From the returned function; a ``TypeError`` that offers the nearest
            name.
    """
    parameters = inspect.signature(func).parameters
    known = frozenset(parameters)
    name = func.__qualname__.removesuffix(".__init__")

    @functools.wraps(func)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not kwargs.keys() <= known:
            raise _unknown(name, sorted(kwargs.keys() - known), list(parameters))
        return func(*args, **kwargs)

    return checked


def _unknown(name: str, unknown: list[str], known: list[str]) -> UnknownArgumentError:
    known = [parameter for parameter in known if parameter != "self"]
    hint = suggestion(unknown[0], known).removesuffix("?")
    return UnknownArgumentError(
        f'{name.split(".<locals>.")[-1]} has no argument "{unknown[0]}"{hint}'
        f"{'?' if hint else '.'} Its arguments: {quoted(known)}."
    )
