"""Batch logs that stay on the device until somebody reads them."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clarion.metrics.blocks import Later
from clarion.metrics.collection import Measured
from clarion.metrics.values import values_by_name

__all__ = ["Logs", "to_floats"]


class Logs(MutableMapping[str, Any]):
    """What a batch hook receives: a mapping of names to numbers.

    The first read of a measured value brings all of them from the device in one transfer; if
    nobody reads, nobody waits. Compares equal to a dict of the same items.

    Args:
        plain: Values that are on the host already, first in order.
        measured: Names as they are shown, the metric's own names, and what it returned; or what
            returns these when it is called.
        prefix: What stands before the measured names, for example ``val_``.
    """

    __slots__ = ("_items", "_pending", "_prefix", "_source")

    def __init__(
        self,
        plain: dict[str, Any],
        measured: Sequence[Measured] | Callable[[], Sequence[Measured]] = (),
        prefix: str = "",
    ) -> None:
        self._items = plain
        self._prefix = prefix
        self._source = measured
        self._pending: tuple[Sequence[Measured], str] | None = None

    def __getitem__(self, key: str) -> Any:
        value = self._items.get(key)
        if value is not None:
            return value
        self._name()
        value = self._items[key]
        if value is None and self._pending is not None:
            self._read()
            value = self._items[key]
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._read()
        self._items[key] = value

    def __delitem__(self, key: str) -> None:
        self._read()
        del self._items[key]

    def __iter__(self) -> Iterator[str]:
        self._name()
        return iter(self._items)

    def __len__(self) -> int:
        self._name()
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        self._name()
        return key in self._items

    def settle(self) -> None:
        """Compute what is left to compute, on the device: the batch may be forgotten then."""
        self._name()
        if self._pending is not None:
            measured, prefix = self._pending
            self._pending = [(s, o, _now(value)) for s, o, value in measured], prefix

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the same items."""
        return dict(self._as_dict())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping):
            return self._as_dict() == dict(other)
        return NotImplemented

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._as_dict(), **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self._as_dict()}

    __hash__ = None  # type: ignore[assignment]  # mutable, as a dict is

    def __repr__(self) -> str:
        return repr(self._as_dict())

    def _as_dict(self) -> dict[str, Any]:
        self._read()
        return self._items

    def _name(self) -> None:
        """Give each measured value its place among the items."""
        source, self._source = self._source, ()
        measured = source() if callable(source) else source
        for shown, _, _ in measured:
            for name in shown:
                self._items[self._prefix + name] = None
        if measured:
            self._pending = measured, self._prefix

    def _read(self) -> None:
        self._name()
        if self._pending is None:
            return
        measured, prefix = self._pending
        self._pending = None
        named: dict[str, Any] = {}
        for shown, own, value in measured:
            for name, part in values_by_name(_now(value), shown, own).items():
                named[prefix + name] = part
        self._items.update(to_floats(named))


def _now(value: Any) -> Any:
    if type(value) is Later:
        value = value.value()
    return value.detach() if isinstance(value, Tensor) else value


def to_floats(named: Mapping[str, Any]) -> dict[str, float]:
    """Return the values as floats, those on a device in one transfer per device.

    Args:
        named: 0-d tensors and numbers by name.
    """
    floats: dict[str, Any] = dict(named)
    by_device: dict[torch.device, list[str]] = {}
    for name, value in named.items():
        if isinstance(value, Tensor) and value.device.type == "cpu":
            floats[name] = float(value.item())
        elif isinstance(value, Tensor):
            by_device.setdefault(value.device, []).append(name)
        else:
            floats[name] = float(value)
    for device, names in by_device.items():
        wide = torch.float32 if device.type == "mps" else torch.float64
        stacked = torch.stack([named[name].detach().to(wide).reshape(()) for name in names])
        floats.update(zip(names, stacked.tolist(), strict=True))
    return floats
