"""Where two states of nested plain values and tensors differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["state_differences"]

_LONGEST = 60


def state_differences(
    then: Mapping[str, Any], now: Mapping[str, Any], *, moved_to: str = ""
) -> list[str]:
    """Return the places where two states differ, each with what differs there; empty if nowhere.

    Args:
        then: One state.
        now: The other one.
        moved_to: A directory in texts of ``now`` that may have any other name in those of ``then``.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
        >>> state_differences({"a": {"w": one}, "n": 1}, {"a": {"w": other}, "n": 1})
        ['a.w: differs by up to 0.5']
    """
    return list(_compared("", then, now, moved_to))


def _compared(name: str, then: Any, now: Any, moved_to: str) -> Iterator[str]:
    if isinstance(then, Tensor) and isinstance(now, Tensor):
        yield from _of_tensors(name, then, now)
    elif isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in [*then, *(key for key in now if key not in then)]:
            place = f"{name}.{key}" if name else str(key)
            yield from _compared(place, then.get(key), now.get(key), moved_to)
    elif _is_list(then) and _is_list(now) and len(then) == len(now):
        for i, pair in enumerate(zip(then, now, strict=True)):
            yield from _compared(f"{name}.{i}", *pair, moved_to)
    elif not _equal(then, now) and not _is_moved(then, now, moved_to):
        yield f"{name}: {_short(then)} then, {_short(now)} now"


def _of_tensors(name: str, then: Tensor, now: Tensor) -> Iterator[str]:
    if (then.shape, then.dtype) != (now.shape, now.dtype):
        kinds = [f"{tuple(one.shape)} {str(one.dtype)[6:]}" for one in (then, now)]
        yield f"{name}: {kinds[0]} then, {kinds[1]} now"
    elif not bool(((then == now) | (then.isnan() & now.isnan())).all()):
        most = (then.double() - now.double()).abs().max().item()
        yield f"{name}: differs by up to {most:.3g}"


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _equal(then: Any, now: Any) -> bool:
    if isinstance(then, Tensor) or isinstance(now, Tensor):
        return False
    both_nan = then != then and now != now
    return bool(then == now) or both_nan


def _is_moved(then: Any, now: Any, moved_to: str) -> bool:
    if not (moved_to and isinstance(then, str) and isinstance(now, str)):
        return False
    before, found, after = now.partition(moved_to)
    long_enough = len(then) >= len(before) + len(after)
    return bool(found) and long_enough and then.startswith(before) and then.endswith(after)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
