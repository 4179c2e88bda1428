"""Functions over nested lists, tuples and mappings of tensors."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from clarion.errors import InvalidTypeError

__all__ = [
    "concatenate",
    "detached",
    "from_numpy",
    "map_structure",
    "numpy_to_torch",
    "torch_apply",
    "torch_to",
    "torch_to_numpy",
]


def map_structure(obj: Any, func: Callable[[Any], Any]) -> Any:
    """Return the same structure with ``func`` applied to every leaf.

    Lists, tuples and named tuples keep their type; every mapping (dicts, a tokenizer's
    ``BatchEncoding``) becomes a plain dict. A ``PackedSequence`` keeps its type and its
    ``batch_sizes``, which torch wants on the CPU.

    Args:
        obj: A leaf, or nested lists, tuples and mappings of leaves.
        func: What to do with a leaf.
    """
    if isinstance(obj, Tensor):
        return func(obj)
    if isinstance(obj, PackedSequence):
        return obj._replace(
            data=func(obj.data),
            sorted_indices=None if obj.sorted_indices is None else func(obj.sorted_indices),
            unsorted_indices=None if obj.unsorted_indices is None else func(obj.unsorted_indices),
        )
    if isinstance(obj, tuple) and hasattr(obj, "_fields"):
        return type(obj)(*(map_structure(item, func) for item in obj))
    if isinstance(obj, list | tuple):
        return type(obj)([map_structure(item, func) for item in obj])
    if isinstance(obj, Mapping):
        return {key: map_structure(value, func) for key, value in obj.items()}
    return func(obj)


def torch_apply(obj: Any, func: Callable[[Tensor], Any]) -> Any:
    """Return the same structure with ``func`` applied to every tensor.

    Args:
        obj: Nested lists, tuples and mappings; leaves that are no tensors are kept as they are.
        func: What to do with a tensor.

    Example:
        >>> torch_apply([torch.tensor(1), {"a": torch.tensor(2)}, "text"], lambda t: t.item())
        [1, {'a': 2}, 'text']
    """
    return map_structure(obj, lambda leaf: func(leaf) if isinstance(leaf, Tensor) else leaf)


def torch_to_numpy(obj: Any, copy: bool = False) -> Any:
    """Return the same structure with tensors as ndarrays.

    Args:
        obj: Nested lists, tuples and mappings. Tensors are detached and brought to the CPU;
            bfloat16, which numpy does not have, becomes float32, and what is sparse dense.
        copy: Whether to copy tensors that are on the CPU already; otherwise memory is shared.
    """

    def convert(tensor: Tensor) -> np.ndarray:
        tensor = tensor.detach().cpu()
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if tensor.dtype == torch.bfloat16:
            return tensor.float().numpy()
        array = tensor.numpy()
        return array.copy() if copy else array

    return torch_apply(obj, convert)


def detached(obj: Any, *, to_numpy: bool, lasts: bool = False) -> Any:
    """Return the same structure with ndarrays, or tensors without a gradient, to be kept.

    Args:
        obj: Nested lists, tuples and mappings.
        to_numpy: Whether tensors become ndarrays.
        lasts: Whether nobody will write into the memory of the tensors again; it is shared then.
    """
    if to_numpy:
        return torch_to_numpy(obj, copy=not lasts)
    return torch_apply(obj, Tensor.detach if lasts else lambda tensor: tensor.detach().clone())


def numpy_to_torch(obj: Any) -> Any:
    """Return the same structure with ndarrays as tensors that share their memory."""
    if isinstance(obj, PackedSequence):
        return obj  # it holds tensors already
    return map_structure(obj, lambda leaf: from_numpy(leaf) if _is_array(leaf) else leaf)


def torch_to(obj: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the same structure with ``tensor.to(*args, **kwargs)`` for every tensor."""
    return torch_apply(obj, lambda tensor: tensor.to(*args, **kwargs))


def concatenate(batches: Sequence[Any]) -> Any:
    """Return one structure whose arrays are those of the batches, one after the other.

    Args:
        batches: At least one structure, all of one shape. Arrays and tensors with at least one
            dimension are joined on axis 0. What cannot be joined (numbers, other objects,
            arrays whose other dimensions differ, a tuple here and an array there) stays a list
            with one entry per batch.
    """
    first = batches[0]
    if isinstance(first, list | tuple) and not isinstance(first, PackedSequence):
        if any(
            not isinstance(batch, list | tuple) or len(batch) != len(first) for batch in batches
        ):
            return list(batches)
        parts = [concatenate(part) for part in zip(*batches, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if isinstance(first, Mapping):
        if any(not isinstance(b, Mapping) or not first.keys() <= b.keys() for b in batches):
            return list(batches)
        return {key: concatenate([batch[key] for batch in batches]) for key in first}
    if isinstance(first, Tensor | np.ndarray) and first.ndim > 0:
        kind = Tensor if isinstance(first, Tensor) else np.ndarray
        if any(not isinstance(b, kind) or _differs(b, first) for b in batches):
            return list(batches)
        return torch.cat(list(batches)) if isinstance(first, Tensor) else np.concatenate(batches)
    return list(batches)


def _differs(array: Any, first: Any) -> bool:
    """Tell whether an array has other dimensions than the first one, of which it may be longer."""
    if getattr(array, "is_nested", False) or getattr(first, "is_nested", False):
        return True  # it has no shape
    return bool(array.ndim != first.ndim or array.shape[1:] != first.shape[1:])


def from_numpy(array: np.ndarray) -> Tensor:
    """Return a tensor that shares the array's memory, without torch's warning if read-only.

    What torch cannot share is copied: arrays that run backwards, as ``x[:, ::-1]`` does, and those
    of another machine's byte order.

    Raises:
        InvalidTypeError: If the array holds no numbers.
    """
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    try:
        if array.flags.writeable:
            return torch.from_numpy(array)
        with warnings.catch_warnings():
            # The tensor is only read here; a user who writes into it writes into read-only memory.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)
    except TypeError as error:
        raise InvalidTypeError(
            f"An ndarray of shape {array.shape} has the dtype {array.dtype}, which is no number "
            "that torch knows. Encode text, dates and categories as numbers, or convert it with "
            ".astype(...)."
        ) from error


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray)
