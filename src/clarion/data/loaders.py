"""Loaders for arrays, datasets and iterables, and how many batches are taken from them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data import TensorDataset as TorchTensorDataset

from clarion.data.arrays import ArrayBatches, as_arrays
from clarion.data.dataset import TensorDataset, common_length
from clarion.errors import DataError, InvalidArgumentError, InvalidTypeError

__all__ = [
    "any_loader",
    "array_loader",
    "check_steps",
    "dataset_loader",
    "num_batches",
    "take",
]

_ARRAY_OPTIONS = frozenset({"batch_size", "shuffle", "drop_last", "generator"})


def array_loader(
    named: dict[str, Any],
    *,
    shuffle: bool = False,
    **options: Any,
) -> Iterable[Any]:
    """Return a loader over arrays.

    Args:
        named: The arrays by the names that errors use, ``{"x": x, "y": y}``. With one entry the
            batches are that entry, with more they are tuples.
        shuffle: Whether the order is random, unless ``options`` say otherwise.
        options: Arguments of ``DataLoader``.

    Raises:
        DataError: If there is no example, or the numbers of examples differ.
    """
    arrays = {name: as_arrays(array, name) for name, array in named.items()}
    length = common_length(arrays)
    if length == 0:
        raise DataError(f"{' and '.join(named)} hold no examples (length 0); pass at least one.")
    if not {"sampler", "batch_sampler"} & set(options):
        options = {"shuffle": shuffle, **options}
    parts = tuple(arrays.values())
    if set(options) <= _ARRAY_OPTIONS:
        return ArrayBatches(parts if len(parts) > 1 else parts[0], **options)
    return _data_loader(TensorDataset(*parts), options)


def dataset_loader(dataset: Any, name: str, *, shuffle: bool = False, **options: Any) -> Any:
    """Return a loader over a dataset.

    Args:
        dataset: Anything with ``__getitem__`` and ``__len__``, or an ``IterableDataset``.
        name: What an error calls it.
        shuffle: Whether the order is random, unless ``options`` say otherwise.
        options: Arguments of ``DataLoader``.

    Raises:
        DataError: If the dataset is empty.
        InvalidTypeError: If it is no dataset.
    """
    iterable = isinstance(dataset, IterableDataset)
    if not iterable and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise InvalidTypeError(
            f"{name} is a {type(dataset).__name__}; a dataset needs __getitem__ and __len__. "
            "Iterables of batches go to the ..._generator methods."
        )
    if not iterable and len(dataset) == 0:
        raise DataError(f"{name} is empty (length 0); pass at least one example.")
    if shuffle and not iterable and not {"sampler", "batch_sampler"} & set(options):
        options = {"shuffle": True, **options}
    plain = _without_defaults(options)
    if type(dataset) in (TensorDataset, TorchTensorDataset) and set(plain) <= _ARRAY_OPTIONS:
        return ArrayBatches(tuple(dataset.tensors), **plain)
    return _data_loader(dataset, options)


def any_loader(data: Any, name: str, *, shuffle: bool = False, **options: Any) -> Any:
    """Return a loader over whatever carries examples or batches.

    Args:
        data: Arrays (also a dict or a list of them), a dataset, or an iterable of batches, which
            is returned as it is.
        name: What an error calls it.
        shuffle: Whether the order is random; an iterable of batches keeps its own.
        options: Arguments of ``DataLoader``.
    """
    is_array = isinstance(data, Tensor | np.ndarray | Mapping) or hasattr(data, "to_numpy")
    is_arrays = isinstance(data, list | tuple) and bool(data) and all(map(_is_array, data))
    if is_array or is_arrays:
        return array_loader({name: data}, shuffle=shuffle, **options)
    is_batches = isinstance(data, DataLoader | list | tuple) or hasattr(data, "__next__")
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and not is_batches):
        return dataset_loader(data, name, shuffle=shuffle, **options)
    if hasattr(data, "__iter__"):
        return data
    raise InvalidTypeError(
        f"{name} is a {type(data).__name__}; pass arrays, a dataset, a DataLoader, or any iterable "
        "of batches."
    )


def num_batches(loader: Any) -> int | None:
    """Return how many batches a loader has, or None if it does not know."""
    try:
        return len(loader)
    except TypeError:
        return None


def check_steps(name: str, steps: int | None) -> None:
    """Raise ``InvalidArgumentError`` unless a number of steps is None or at least 1."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InvalidArgumentError(f"{name} is {steps!r}; it must be a whole number of at least 1.")


def take(loader: Iterable[Any], steps: int | None, where: str) -> Iterator[Any]:
    """Yield exactly ``steps`` batches, starting the loader again whenever it ends before.

    Args:
        loader: The loader; asked for one iterator, and one more each time it ends early.
        steps: How many batches; None for as many as there are.
        where: What an error calls the loader, for example ``the train loader in epoch 2``.

    Raises:
        DataError: If the loader has no batch to give.
    """
    iterator = iter(loader)
    taken = 0
    since_start = 0
    while steps is None or taken < steps:
        try:
            raw = next(iterator)
        except StopIteration:
            if since_start == 0:
                raise DataError(_dry(loader, taken, steps, where)) from None
            if steps is None:
                return
            iterator, since_start = iter(loader), 0
            continue
        taken += 1
        since_start += 1
        yield raw


def _dry(loader: Any, taken: int, steps: int | None, where: str) -> str:
    wanted = "" if steps is None else f" of the {steps} it should give"
    if iter(loader) is loader:
        return (
            f"{where} ended after {taken} batches{wanted}: a generator can be read only once. "
            "Pass a list, a DataLoader, an object whose __iter__ starts anew, or a generator "
            "that never ends together with a number of steps."
        )
    return f"{where} gave no batch{wanted}; check that the data is not empty."


def _data_loader(dataset: Dataset[Any], options: dict[str, Any]) -> DataLoader[Any]:
    if "batch_sampler" in options:
        for excluded in ("batch_size", "shuffle", "sampler", "drop_last"):
            options.pop(excluded, None)
    if options.get("sampler") is not None:
        options.pop("shuffle", None)
    try:
        return DataLoader(dataset, **options)
    except TypeError as error:
        raise InvalidArgumentError(f"dataloader_kwargs do not fit DataLoader: {error}") from error


def _without_defaults(options: dict[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"num_workers": 0, "collate_fn": None}
    return {k: v for k, v in options.items() if k not in defaults or v != defaults[k]}


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "to_numpy")
