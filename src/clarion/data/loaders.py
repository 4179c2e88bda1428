"""Loaders for arrays, datasets and iterables."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
)

from clarion.arguments import check_keywords, check_whole_number
from clarion.data.arrays import ArrayBatches, as_arrays, is_table
from clarion.data.bucketing import LengthBucketBatchSampler
from clarion.data.dataset import TensorDataset, common_length
from clarion.data.lengths import lengths_of
from clarion.data.nested import map_structure
from clarion.data.tables import arrays_of, is_hugging_face
from clarion.data.workers import with_worker_defaults
from clarion.errors import DataError, InvalidArgumentError, InvalidTypeError, kind_of, quoted

__all__ = [
    "any_loader",
    "array_loader",
    "batches_of_pass",
    "carries_arrays",
    "check_iterable",
    "check_steps",
    "dataset_loader",
    "is_array",
    "num_batches",
    "num_examples",
    "restoring_order",
    "weights_of_examples",
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
        verb = "holds" if len(named) == 1 else "hold"
        raise DataError(f"{' and '.join(named)} {verb} no examples (length 0); pass at least one.")
    for needless in ("bucket_by", "padding"):
        options.pop(needless, None)
    if not {"sampler", "batch_sampler"} & set(options):
        options = {"shuffle": shuffle, **options}
    options = _without_defaults(options)
    parts = tuple(arrays.values())
    if set(options) <= _ARRAY_OPTIONS:
        return ArrayBatches(parts if len(parts) > 1 else parts[0], **options)
    return _data_loader(TensorDataset(*parts), options)


def dataset_loader(
    dataset: Any,
    name: str,
    *,
    shuffle: bool = False,
    bucket_by: Any = None,
    padding: Callable[[list[Any]], Any] | None = None,
    **options: Any,
) -> Any:
    """Return a loader over a dataset.

    Args:
        dataset: Anything with ``__getitem__`` and ``__len__``, or an ``IterableDataset``.
        name: What an error calls it.
        shuffle: Whether the order is random, unless ``options`` say otherwise.
        bucket_by: What tells the lengths of the examples, see `lengths_of`, for batches of
            similar length; None for none. Without ``shuffle`` they come sorted by length.
        padding: What makes a batch of a list of examples unless ``options`` say so.
        options: Arguments of ``DataLoader``.

    Raises:
        DataError: If the dataset is empty.
        InvalidTypeError: If it is no dataset.
        InvalidArgumentError: If ``bucket_by`` goes with no other order that is asked for.
    """
    iterable = isinstance(dataset, IterableDataset)
    by_index = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, type) or not (iterable or by_index):
        raise InvalidTypeError(
            f"{name} is {kind_of(dataset)}; a dataset needs __getitem__ and __len__. "
            "Iterables of batches go to the ..._generator methods."
        )
    if isinstance(dataset, tuple) and len(dataset) > 1 and all(map(is_array, dataset)):
        raise InvalidTypeError(
            f"{name} is a tuple of arrays; pass them to fit, evaluate or predict, or as a dataset: "
            "TensorDataset(x, y)."
        )
    if isinstance(dataset, Mapping) and any(isinstance(key, str) for key in dataset):
        first = next(iter(dataset))
        raise InvalidTypeError(
            f"{name} is {kind_of(dataset)} with the entries {quoted(dataset)}, and a dataset has "
            f'examples by number. Pass one of them, as in datasets["{first}"]; a dict of arrays '
            "goes to fit, evaluate or predict."
        )
    if not iterable and len(dataset) == 0:
        raise DataError(f"{name} is empty (length 0); pass at least one example.")
    if bucket_by is not None:
        options = _bucketed(dataset, name, bucket_by, {"shuffle": shuffle, **options})
    elif shuffle and not iterable and not {"sampler", "batch_sampler"} & set(options):
        options = {"shuffle": True, **options}
    plain = _without_defaults(options)
    arrays = arrays_of(dataset) if set(plain) <= _ARRAY_OPTIONS else None
    if arrays is not None:
        return ArrayBatches(arrays, **plain)
    if options.get("collate_fn") is None:
        dataset = _as_tensors(dataset)
        if padding is not None:
            options = {**options, "collate_fn": padding}
    return _data_loader(dataset, options)


def any_loader(
    data: Any,
    name: str,
    *,
    shuffle: bool = False,
    bucket_by: Any = None,
    padding: Callable[[list[Any]], Any] | None = None,
    **options: Any,
) -> Any:
    """Return a loader over whatever carries examples or batches.

    Args:
        data: Arrays (also a dict or a list of them), a dataset, or an iterable of batches, which
            is returned as it is.
        name: What an error calls it.
        shuffle: Whether the order is random; an iterable of batches keeps its own.
        bucket_by: See `dataset_loader`; of no effect on arrays and batches.
        padding: Likewise.
        options: Arguments of ``DataLoader``.
    """
    if carries_arrays(data) or hasattr(data, "toarray"):  # the latter is told what to do instead
        return array_loader({name: data}, shuffle=shuffle, **options)
    is_batches = isinstance(data, DataLoader | list | tuple) or hasattr(data, "__next__")
    is_text = isinstance(data, str | bytes)
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and not is_batches | is_text):
        return dataset_loader(
            data, name, shuffle=shuffle, bucket_by=bucket_by, padding=padding, **options
        )
    if hasattr(data, "__iter__") and not is_text:
        return data
    raise InvalidTypeError(
        f"{name} is {kind_of(data)}; pass arrays, a dataset, a DataLoader, or any iterable of "
        "batches."
    )


def weights_of_examples(weights: Any, name: str) -> Any:
    """Return weights of examples as `array_loader` takes them, if they can weigh anything.

    Args:
        weights: An array, or what holds several.
        name: What an error calls it.

    Raises:
        DataError: If one of them is negative, infinite or nan.
    """

    def check(array: Any) -> Any:
        unfit = ~((array >= 0) & (array < math.inf))  # nan is neither
        if unfit.any():
            row = tuple(torch.as_tensor(unfit).nonzero()[0].tolist())
            raise DataError(
                f"{name} is {array[row].item()} for example {row[0] if row else 0}, counted from "
                "0. A weight is finite and not negative; 0 leaves an example out."
            )
        return array

    return map_structure(as_arrays(weights, name), check)


def carries_arrays(data: Any) -> bool:
    """Tell whether data is arrays: one, a list or dict of them, or a table of plain numbers."""
    listed = isinstance(data, list | tuple) and bool(data) and all(map(is_array, data))
    return is_array(data) or isinstance(data, Mapping) or listed or is_table(data)


def is_array(value: Any) -> bool:
    """Tell whether a value is one array: an ndarray, a tensor, or a data frame or series."""
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "to_numpy")


def num_batches(loader: Any) -> int | None:
    """Return how many batches a loader has, or None if it does not know.

    Raises:
        DataError: If it has none.
    """
    try:
        length = len(loader)
    except (TypeError, NotImplementedError):
        return None
    if length == 0:
        if getattr(loader, "drop_last", False) is True:
            raise DataError(
                "There are no batches: with drop_last=True the examples do not fill one; make "
                "batch_size smaller."
            )
        raise DataError(
            f"The {type(loader).__name__} of batches is empty (length 0): pass at least one batch."
        )
    return length


def batches_of_pass(loader: Any, unknown: int | None = None) -> int | None:
    """Return how many batches a pass over all examples takes, None for as many as there come.

    The length of a loader is a guess where several workers share an iterable dataset: each of them
    ends with a batch of its own that may not be full. torch warns if there are more than it said.

    Args:
        loader: An iterable of batches.
        unknown: What stands for the length of a loader that has none.

    Raises:
        DataError: If there is no batch.
    """
    shared = isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    if shared and loader.num_workers > 1 and hasattr(loader.dataset, "__len__"):
        return None
    length = num_batches(loader)
    return unknown if length is None else length


def num_examples(loader: Any, steps: int | None) -> int | None:
    """Return how many examples some batches of a loader hold, or None if it cannot be known.

    Args:
        loader: An iterable of batches.
        steps: How many batches are taken; None for all.
    """
    if isinstance(loader, ArrayBatches):
        total, batch_size = loader.num_examples, loader.batch_size
    elif isinstance(loader, DataLoader) and isinstance(
        loader.batch_sampler, LengthBucketBatchSampler
    ):
        batch_size, total = loader.batch_sampler.batch_size, len(loader.batch_sampler.lengths)
    elif isinstance(loader, DataLoader) and type(loader.batch_sampler) is BatchSampler:
        sampler: Any = loader.sampler
        if not hasattr(sampler, "__len__"):  # that of an iterable dataset
            return None
        batch_size = loader.batch_sampler.batch_size
        total = len(loader) * batch_size if loader.drop_last else len(sampler)
    else:
        return None
    return total if steps is None else min(total, steps * batch_size)


def restoring_order(loader: Any, steps: int | None) -> Tensor:
    """Return where the examples of a loader of sorted batches belong in the dataset's order.

    Args:
        loader: A loader that `dataset_loader` made with ``bucket_by`` and without ``shuffle``.
        steps: How many batches are taken; None for all.
    """
    sampler: LengthBucketBatchSampler = loader.batch_sampler
    return sampler.places(steps)


def check_steps(name: str, steps: int | None) -> None:
    """Raise ``InvalidArgumentError`` unless a number of steps is None or at least 1."""
    if steps is not None:
        check_whole_number(name, steps, 1)


def check_iterable(name: str, loader: Any) -> None:
    """Raise ``InvalidTypeError`` unless something can be an iterable of batches.

    Args:
        name: What an error calls it.
        loader: What the user passed where batches are expected.
    """
    if hasattr(loader, "__iter__"):
        # Asked of the type, since a mock has every attribute.
        table = hasattr(type(loader), "column_names") or hasattr(type(loader), "to_numpy")
        if not (table or isinstance(loader, Tensor | np.ndarray | Mapping | str | bytes)):
            return
        what = f"{kind_of(loader)}, which does not give batches when it is iterated over"
    else:
        what = f"{kind_of(loader)}, which cannot be iterated over"
    raise InvalidTypeError(
        f"{name} is {what}. Pass a DataLoader, a list of batches, or a generator; arrays go to "
        "fit, evaluate or predict, datasets to fit_dataset, evaluate_dataset or predict_dataset."
    )


def _as_tensors(dataset: Any) -> Any:
    """Return a Hugging Face dataset that gives tensors, unless its user chose a format."""
    if not is_hugging_face(dataset):
        return dataset
    # One with examples by index says its format openly, an iterable one (datasets 4) does not.
    if hasattr(type(dataset), "format"):
        chosen = dataset.format["type"]
    else:
        chosen = getattr(dataset, "_formatting", None)
    return dataset.with_format("torch") if chosen is None else dataset


def _data_loader(dataset: Dataset[Any], options: dict[str, Any]) -> DataLoader[Any]:
    if options.get("batch_sampler") is not None:
        for excluded in ("batch_size", "shuffle", "sampler", "drop_last"):
            options.pop(excluded, None)
    if options.get("sampler") is not None:
        options.pop("shuffle", None)
    options = with_worker_defaults(dataset, options)
    check_keywords(DataLoader, options, "dataloader_kwargs")
    try:
        return DataLoader(dataset, **options)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"These arguments do not fit DataLoader: {error}") from error


def _bucketed(dataset: Any, name: str, by: Any, options: dict[str, Any]) -> dict[str, Any]:
    if isinstance(dataset, IterableDataset):
        raise InvalidArgumentError(
            f"bucket_by needs a dataset with examples by index, and {name} is {kind_of(dataset)}. "
            "Leave it out, or let the dataset give texts of similar length after each other."
        )
    ordering = [key for key in ("sampler", "batch_sampler") if options.get(key) is not None]
    if ordering:
        raise InvalidArgumentError(
            f'bucket_by decides on the order of the examples, and so does "{ordering[0]}" in '
            "dataloader_kwargs. Pass one of the two."
        )
    sampler = LengthBucketBatchSampler(
        lengths_of(dataset, by, name).tolist(),
        options.get("batch_size", 1),
        shuffle=bool(options.get("shuffle")),
        drop_last=bool(options.get("drop_last")),
    )
    return {**options, "batch_sampler": sampler}


def _without_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that change something for data that needs no loading."""
    defaults: dict[str, Any] = {"num_workers": (0, "auto"), "collate_fn": (None,)}
    return {k: v for k, v in options.items() if k not in defaults or v not in defaults[k]}
