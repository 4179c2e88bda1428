"""What can be told of train data without loading any of it, to see whether they have changed."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from clarion.data.arrays import ArrayBatches

__all__ = ["differences", "traits_of"]

_LONGEST = 100  # characters of a value in a message


def traits_of(loader: Any) -> dict[str, Any]:
    """Return numbers of examples and batches, and the layout of an example, as far as known.

    Args:
        loader: An iterable of raw batches. Of iterables without examples by index nothing is
            known: the result is empty.
    """
    if isinstance(loader, ArrayBatches):
        found = {
            "number of examples": loader.num_examples,
            "examples": _layout(loader.arrays),
            "batch size": loader.batch_size,
            "number of batches": len(loader),
        }
    elif isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        found = {
            "number of examples": _length(loader.dataset),
            "examples": _layout_of_dataset(loader.dataset),
            "batch size": loader.batch_size,
            "number of batches": _length(loader),
        }
    else:
        return {}
    return {name: value for name, value in found.items() if value is not None}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each trait that is known of both and differs.

    Args:
        then: What ``traits_of`` returned of the data that were expected.
        now: What it returned of those that were got.
    """
    return [
        f"{name}: got {_short(now[name])}, expected {_short(then[name])}"
        for name in then
        if name in now and now[name] != then[name]
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _layout_of_dataset(dataset: Any) -> str | None:
    """Return dtypes and shapes of an example; None where one would have to be loaded for them."""
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, list | tuple):
        return _layout(tuple(tensors))
    if isinstance(dataset, Tensor):
        return _layout(dataset)
    features = getattr(dataset, "features", None)  # of a Hugging Face dataset
    if isinstance(features, Mapping) and hasattr(type(dataset), "column_names"):
        return ", ".join(f"{name} {feature}" for name, feature in sorted(features.items()))
    return None


def _layout(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape[1:])}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_layout(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_layout, value)) + ")"
    return type(value).__name__
