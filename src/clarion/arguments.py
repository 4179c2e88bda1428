"""Arguments that do not fit a function, answered with its own names and the nearest of them."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, Unpack, get_args, get_origin, get_type_hints

from clarion.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    UnknownArgumentError,
    kind_of,
    quoted,
    suggestion,
)

__all__ = [
    "check_keywords",
    "check_listed",
    "check_switch",
    "check_whole_number",
    "checked_arguments",
]

_MANY = 15  # more names than anybody reads beside the one that was meant

_OF_LOADERS = ("collate_fn", "drop_last", "num_workers", "pin_memory", "sampler", "shuffle")
_OF_OPTIMIZERS = ("clip_norm", "lr", "momentum", "schedule", "warmup", "weight_decay")
_ELSEWHERE = {
    "dataloader_kwargs": ('dataloader_kwargs={{"{}": ...}}', _OF_LOADERS),
    "optimizer": ('optimizer={{"optim": "adam", "{}": ...}}', _OF_OPTIMIZERS),
}
"""Arguments that take others inside: how that is written, and for which."""

P = ParamSpec("P")
R = TypeVar("R")


def checked_arguments(func: Callable[P, R]) -> Callable[P, R]:
    """Return the function with helpful errors for arguments that it does not have or that lack.

    Keywords that it takes as ``**options: Unpack[...]`` stand in its signature one by one, None
    or False if they are left out.

    Raises:
        UnknownArgumentError: From the returned function; a ``TypeError`` that offers the nearest
            name.
    """
    signature = _spelled_out(inspect.signature(func))
    known = frozenset(signature.parameters)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())

    @functools.wraps(func)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not takes_any and not kwargs.keys() <= known:
            raise _unknown(_name_of(func, args), kwargs, known=list(signature.parameters))
        try:
            return func(*args, **kwargs)
        except TypeError as error:
            inside = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            if inside:
                raise
            raise _misfit(_name_of(func, args), signature, args, kwargs) from None

    checked.__signature__ = signature  # type: ignore[attr-defined]  # what help() shows
    return checked


def check_keywords(
    target: Callable[..., Any], given: Iterable[str], argument: str, own: Iterable[str] = ()
) -> None:
    """Raise ``UnknownArgumentError`` if keyword arguments do not fit what they are meant for.

    Args:
        target: The class or function that will get them.
        given: Their names.
        argument: The argument that they were passed in, for example ``dataloader_kwargs``.
        own: Arguments of the target that clarion itself passes.
    """
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in own]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise _unknown(f"{argument}: {target.__name__}", unknown, known)


def check_listed(name: str, value: Any) -> None:
    """Raise ``InvalidTypeError`` if a value stands alone where a list of them is taken.

    Args:
        name: The argument.
        value: What the user gave; None if nothing.
    """
    if value is not None and not hasattr(value, "__iter__"):
        raise InvalidTypeError(
            f"{name} is {kind_of(value)}; it is a list. Write {name}=[...] around it."
        )


def check_switch(name: str, value: Any) -> None:
    """Raise ``InvalidTypeError`` unless a value is True or False.

    Args:
        name: What an error calls it.
        value: The value.
    """
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{name} is {kind_of(value)}; it is True or False.")


def check_whole_number(name: str, value: Any, least: int) -> None:
    """Raise ``InvalidArgumentError`` unless a value is a whole number that is not too small.

    Args:
        name: What an error calls it.
        value: The value.
        least: The smallest number that works.
    """
    # bool is an int for Python, and numpy's integers are as good as Python's.
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise InvalidArgumentError(
            f"{name} is {value!r}; it must be a whole number of at least {least}."
        )


def _spelled_out(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature with the entries of an unpacked ``TypedDict`` as keywords of their own."""
    parameters = list(signature.parameters.values())
    last = parameters[-1] if parameters else None
    if last is None or get_origin(last.annotation) is not Unpack:
        return signature
    for name, kind in get_type_hints(get_args(last.annotation)[0]).items():
        default = False if kind is bool else None
        added = inspect.Parameter(name, last.KEYWORD_ONLY, default=default, annotation=kind)
        parameters.insert(-1, added)
    return signature.replace(parameters=parameters[:-1])


def _name_of(func: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return the name users know: the method of the class that they built, not of its base.

    An ``__init__`` that a class below calls from its own is named by its own class.
    """
    if func.__name__ == "__init__":
        built: Any = type(args[0]) if args else type(None)
        if getattr(built.__init__, "__wrapped__", None) is func:
            return str(built.__name__)
        return func.__qualname__.removesuffix(".__init__").split(".<locals>.")[-1]
    is_method = next(iter(inspect.signature(func).parameters), None) == "self" and args
    return f"{type(args[0]).__name__}.{func.__name__}" if is_method else func.__name__


def _unknown(name: str, given: Iterable[str], known: list[str]) -> UnknownArgumentError:
    unknown = min(key for key in given if key not in known)
    known = [parameter for parameter in known if parameter != "self"]
    for holder, (written, names) in _ELSEWHERE.items():
        if holder in known and unknown in names:
            return UnknownArgumentError(
                f'{name} has no argument "{unknown}": it goes into {written.format(unknown)}.'
            )
    hint = suggestion(unknown, known)
    if hint and len(known) > _MANY:
        rest = f"help({name.split(': ')[-1]}) lists all."
    else:
        rest = f"Its arguments: {quoted(known)}."
    return UnknownArgumentError(f'{name} has no argument "{unknown}"{hint or "."} {rest}')


def _misfit(
    name: str, signature: inspect.Signature, args: Any, kwargs: dict[str, Any]
) -> UnknownArgumentError:
    reason = "the arguments do not fit"
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        reason = str(error)
    by_position = [
        p.name
        for p in signature.parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
    ]
    return UnknownArgumentError(
        f"{name}: {reason}. By position it takes {quoted(by_position)}; pass everything else by "
        "name."
    )
