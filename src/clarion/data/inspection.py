"""Mistakes in the data that can be seen before a training begins."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from clarion.data.arrays import ArrayBatches
from clarion.data.columns import class_labels
from clarion.data.nested import torch_to_numpy
from clarion.errors import DataError, kind_of

__all__ = [
    "describe_shared",
    "example_keys",
    "inputs_of",
    "shared_examples",
    "warn_of_sorted_labels",
]

_FEWEST_BATCHES = 4
_SHOWN = 5


def warn_of_sorted_labels(loader: Any, target_keys: Sequence[str]) -> None:
    """Warn if examples are trained on class after class: sorted labels that nobody shuffles.

    Loaders whose order or whose labels cannot be seen beforehand are passed over, and so is data
    of fewer than four batches.

    Args:
        loader: The train loader.
        target_keys: The keys of mappings that hold the target.
    """
    found = _labels_in_order(loader, target_keys)
    if found is None:
        return
    labels, batch_size = found
    if len(labels) < _FEWEST_BATCHES * batch_size or (labels[: 2 * batch_size] != labels[0]).any():
        return
    steps = labels.diff()
    if not ((steps >= 0).all() or (steps <= 0).all()) or not steps.any():
        return
    first = int((labels != labels[0]).nonzero()[0])
    warnings.warn(
        f"The train data is sorted by its labels and not shuffled: the first {first} examples are "
        f"all of class {labels[0].item():g}, so each part of an epoch teaches one class alone. "
        "Shuffle it: leave shuffle=False out, or pass DataLoader(..., shuffle=True).",
        stacklevel=2,
    )


def shared_examples(train: Any, valid: Any, target_keys: Sequence[str]) -> list[int]:
    """Return the indices of the train examples whose inputs stand in the validation data too.

    Args:
        train: The train loader: of arrays, over a dataset with examples by index, or a list of
            batches, in which examples are numbered one after the other.
        valid: The validation loader, likewise.
        target_keys: The keys of mappings that hold the target.

    Raises:
        DataError: If a loader is something else, whose examples have no index.
    """
    known = set(_keys_of(valid, "The validation data", target_keys))
    keys = _keys_of(train, "The train data", target_keys)
    return [number for number, key in enumerate(keys) if key in known]


def describe_shared(shared: Sequence[int], name: str) -> str:
    """Return a sentence about train examples that stand in a validation set.

    Args:
        shared: Their indices.
        name: The name of the set; empty for the only one.
    """
    more = len(shared) - _SHOWN
    listed = ", ".join(map(str, shared[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
    which = f'validation set "{name}"' if name else "validation data"
    return (
        f"check_leaks: {len(shared)} train examples stand in the {which} too, so it does not tell "
        f"how the network does on new ones. Their indices: {listed}. Remove them from one of both."
    )


def example_keys(inputs: Any) -> Iterator[bytes]:
    """Yield a key for each example; examples of equal values have equal keys.

    Args:
        inputs: Arrays of shape (N, ...), nested as they are. Floats count as float32, so a copy
            in float64 of the same numbers is the same.
    """
    leaves = [_canonical(leaf) for leaf in _leaves(torch_to_numpy(inputs))]
    for rows in zip(*leaves, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for row in rows:
            digest.update(np.ascontiguousarray(row).tobytes())
            digest.update(str(row.shape).encode())
        yield digest.digest()


def inputs_of(raw: Any, target_keys: Sequence[str]) -> Any:
    """Return what a raw batch or example holds beside its target."""
    if isinstance(raw, Mapping):
        return {key: value for key, value in raw.items() if key not in target_keys}
    pair = isinstance(raw, list | tuple) and len(raw) > 1
    return raw[0] if pair else raw


def _labels_in_order(loader: Any, target_keys: Sequence[str]) -> tuple[Tensor, int] | None:
    """Return the class of each example in the order of the batches, and the size of a batch."""
    labels: Tensor | None = None
    if isinstance(loader, ArrayBatches):
        labels = None if loader.shuffle else class_labels(loader.arrays, target_keys)
        size = loader.batch_size
    elif isinstance(loader, DataLoader):
        if type(loader.sampler) is not SequentialSampler or loader.batch_size is None:
            return None
        dataset: Any = loader.dataset
        if isinstance(dataset, list | tuple):
            return None
        labels, size = class_labels(dataset, target_keys), loader.batch_size
    elif type(loader) in (list, tuple) and loader:
        parts = [class_labels(raw, target_keys) for raw in loader]
        known = [part for part in parts if part is not None and len(part)]
        if len(known) < len(loader):
            return None
        labels, size = torch.cat(known), len(known[0])
    else:
        return None
    return None if labels is None else (labels, size)


def _keys_of(loader: Any, name: str, target_keys: Sequence[str]) -> Iterator[bytes]:
    if isinstance(loader, ArrayBatches):
        yield from example_keys(inputs_of(loader.arrays, target_keys))
    elif type(loader) in (list, tuple):
        for raw in loader:
            yield from example_keys(inputs_of(raw, target_keys))
    elif isinstance(loader, DataLoader) and hasattr(loader.dataset, "__getitem__"):
        dataset: Any = loader.dataset
        for number in range(len(dataset)):
            inputs = inputs_of(dataset[number], target_keys)
            yield from example_keys(_with_first_dimension(inputs))
    else:
        raise DataError(
            f"check_leaks: {name[0].lower() + name[1:]} is {kind_of(loader)}, whose examples have "
            "no index. Pass arrays, a dataset, a DataLoader over a dataset, or a list of batches."
        )


def _with_first_dimension(example: Any) -> list[Any]:
    return [np.asarray(leaf)[None] for leaf in _leaves(torch_to_numpy(example))]


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _canonical(leaf: Any) -> Any:
    array = np.asarray(leaf)
    if array.dtype.kind == "f":
        return array.astype(np.float32) + np.float32(0)  # -0.0 is 0.0
    return array.astype(np.int64) if array.dtype.kind in "biu" else array
