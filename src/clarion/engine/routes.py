"""Which part of outputs, targets and weights belongs to which of several losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from clarion.errors import InvalidArgumentError, kind_of, quoted, suggestion

__all__ = ["put_part", "take_part"]


def take_part(value: Any, name: str, names: Sequence[str], what: str) -> Any:
    """Return the part of a structure that belongs to a loss.

    Args:
        value: A mapping, of which the entry ``name`` is taken; or a list or tuple with one entry
            per loss, in the order of ``names``.
        name: The name of the loss.
        names: The names of all losses, in order.
        what: What the structure is, for errors: "the network's output" or "the target".

    Raises:
        InvalidArgumentError: If there is no such part; it names both sides and the nearest name.
    """
    if isinstance(value, Mapping):
        if name in value:
            return value[name]
        hint = suggestion(name, [str(key) for key in value]) or "."
        raise InvalidArgumentError(
            f'loss_function has a loss for "{name}", and {what} has no such key{hint} '
            f"Its keys: {quoted(value)}; the losses: {quoted(names)}."
        )
    if isinstance(value, list | tuple):
        if len(value) == len(names):
            return value[list(names).index(name)]
        raise InvalidArgumentError(
            f"loss_function has {len(names)} losses ({quoted(names)}), and {what} is "
            f"{kind_of(value)} of {len(value)}. Give one part for each loss, in this order."
        )
    raise InvalidArgumentError(
        f"loss_function has {len(names)} losses ({quoted(names)}), and {what} is "
        f"{_described(value)}. It has to be a dict with these keys, or a tuple in this order."
    )


def put_part(value: Any, changed: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return a structure with other parts for the losses; the rest and the kind stay.

    Args:
        value: A mapping, list or tuple as for `take_part`.
        changed: The new parts by name.
        names: The names of all losses, in order.
    """
    if isinstance(value, Mapping):
        return {**value, **changed}
    parts = [changed[name] for name in names]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return kind_of(value)
