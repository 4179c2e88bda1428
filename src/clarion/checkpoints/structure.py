"""Nested plain values split into tensors and JSON, and put together again."""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clarion.errors import CheckpointError

__all__ = ["Take", "decode", "encode"]

Take = Callable[[str, Tensor], Tensor]
"""What gives the tensor to be kept for one that was found, called with its name among them."""

_DICTS: dict[str, type] = {"$ordered": OrderedDict, "$counter": Counter}


def encode(
    value: Any, name: str = "state", take: Take | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Split nested values into what JSON can hold and the tensors in them.

    Dicts (keys: str, int, float, bool, None, tuples of these), ``OrderedDict``, ``Counter``,
    lists, tuples, numbers (nan and infinities too), strings, None, tensors and numpy arrays come
    back from ``decode`` as they were, bit for bit; a numpy number comes back as Python's.

    Args:
        value: What is to be kept.
        name: What the value is called in an error.
        take: What gives the tensors to be kept: detached, on the CPU, contiguous. If None they
            share memory with the originals where they can.

    Returns:
        The JSON value, and the tensors by the names that stand in it.

    Raises:
        CheckpointError: If something else is found; it names the place and the type.
    """
    encoder = _Encoder(take or _on_cpu)
    return encoder.encode(value, name, ""), encoder.tensors


def decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Put together what ``encode`` has split.

    Args:
        value: The JSON value.
        tensors: The tensors by name.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), None)
    if len(value) == 1 and isinstance(tag, str) and tag in _DECODERS:
        return _DECODERS[tag](value[tag], tensors)
    return {key: decode(item, tensors) for key, item in value.items()}


class _Encoder:
    """Walks through nested values and collects their tensors."""

    def __init__(self, take: Take) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._take = take

    def encode(self, value: Any, name: str, path: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray | np.generic):
            return self._numpy(value, name, path)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
        if isinstance(value, dict):
            return self._dict(value, name, path)
        if isinstance(value, list | tuple):
            items = [
                self.encode(item, f"{name}[{i}]", f"{path}.{i}") for i, item in enumerate(value)
            ]
            return items if isinstance(value, list) else {"$tuple": items}
        raise CheckpointError(
            f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which a "
            "checkpoint cannot hold: its state_dict() should return tensors, numbers, strings, "
            "lists, tuples and dicts."
        )

    def _tensor(self, value: Tensor, path: str) -> dict[str, Any]:
        if value.layout is not torch.strided or value.is_quantized:
            raise CheckpointError(
                f'The tensor "{path.lstrip(".")}" is {value.layout}, {value.dtype}; a checkpoint '
                "holds dense tensors: return tensor.to_dense() or tensor.dequantize()."
            )
        value = value.detach()
        if value.is_complex():
            return {"$complex": self._keep(torch.view_as_real(value.resolve_conj()), path)}
        return {"$tensor": self._keep(value, path)}

    def _keep(self, value: Tensor, path: str) -> str:
        name = path.lstrip(".") or "tensor"
        while name in self.tensors:
            name += "_"
        self.tensors[name] = self._take(name, value)
        return name

    def _numpy(self, value: Any, name: str, path: str) -> Any:
        if isinstance(value, np.generic):
            return self.encode(value.item(), name, path)
        if value.dtype.kind not in "biufc":
            raise CheckpointError(
                f"{name} is a numpy array of {value.dtype}; a checkpoint holds arrays of numbers."
            )
        return {"$array": self._tensor(torch.from_numpy(np.array(value)), path)}

    def _dict(self, value: dict[Any, Any], name: str, path: str) -> Any:
        items = {
            key: self.encode(x, f"{name}[{key!r}]", f"{path}.{key}") for key, x in value.items()
        }
        kind = next((tag for tag, kind in _DICTS.items() if type(value) is kind), None)
        plain = all(isinstance(key, str) and not key.startswith("$") for key in items)
        if kind is None and plain:
            return items
        pairs = [[self.encode(key, f"a key of {name}", ""), item] for key, item in items.items()]
        return {kind or "$dict": pairs}


def _on_cpu(name: str, tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous()


def _pairs(kind: Callable[[Any], Any]) -> Callable[[Any, dict[str, Tensor]], Any]:
    def make(pairs: Any, tensors: dict[str, Tensor]) -> Any:
        return kind({decode(key, tensors): decode(item, tensors) for key, item in pairs})

    return make


_DECODERS: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "$tensor": lambda name, tensors: tensors[name],
    "$complex": lambda name, tensors: torch.view_as_complex(tensors[name]),
    "$array": lambda tensor, tensors: decode(tensor, tensors).numpy(),
    "$float": lambda text, tensors: float(text),
    "$tuple": lambda items, tensors: tuple(decode(item, tensors) for item in items),
    "$dict": _pairs(dict),
    "$ordered": _pairs(OrderedDict),
    "$counter": _pairs(Counter),
}
"""How each tag that ``encode`` writes is read."""
