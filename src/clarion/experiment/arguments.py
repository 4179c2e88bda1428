"""Keyword arguments that an experiment hands on to its model."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from clarion.errors import UnknownArgumentError, quoted, suggestion

__all__ = ["check_arguments"]


def check_arguments(
    own: Callable[..., Any], target: Callable[..., Any], given: Iterable[str]
) -> None:
    """Raise if a keyword argument is known neither to a method nor to the one it calls.

    Args:
        own: The method.
        target: The one that receives the other arguments.
        given: The names of the other arguments.

    Raises:
        UnknownArgumentError: It offers the nearest name.
    """
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    unknown = [argument for argument in given if argument not in parameters]
    if unknown:
        both = {**inspect.signature(own).parameters, **parameters}
        known = [n for n, p in both.items() if n != "self" and p.kind is not p.VAR_KEYWORD]
        hint = suggestion(unknown[0], known)
        name = "Experiment" if own.__name__ == "from_network" else f"Experiment.{own.__name__}"
        rest = "" if hint else f" Its arguments: {quoted(known)}."
        raise UnknownArgumentError(f'{name} has no argument "{unknown[0]}"{hint or "."}{rest}')
