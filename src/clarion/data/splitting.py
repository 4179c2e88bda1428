"""Examples set aside for validation, class by class, and remembered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset as TorchTensorDataset,
)

from clarion.data.arrays import as_arrays
from clarion.data.columns import class_labels
from clarion.data.dataset import TensorDataset, common_length
from clarion.data.nested import from_numpy, map_structure
from clarion.errors import DataError, InvalidArgumentError, kind_of

__all__ = ["Split", "divide", "part_arrays", "part_dataset"]


class Split:
    """Which examples train and which validate, as a part of what a checkpoint holds.

    A split once drawn is kept for as long as the number of examples, the fraction and the seed
    stay the same, so that nothing a model was trained on is validated on later.

    Attributes:
        indices: The indices of the train examples and those of the validation examples, each in
            rising order, int64, on the CPU; None if nothing was split yet.
    """

    def __init__(self) -> None:
        self.indices: tuple[Tensor, Tensor] | None = None
        self._drawn_for: list[Any] = []

    def draw(
        self, num: int, fraction: float, labels: Tensor | None, seed: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return the indices of both parts, those of before if they still hold.

        Args:
            num: How many examples there are.
            fraction: See `divide`.
            labels: See `divide`.
            seed: What the draw depends on alone; None draws a seed from torch's generator.
        """
        wanted = [num, fraction, seed]
        if self.indices is None or self._drawn_for != wanted:
            generator = torch.Generator()
            if seed is None:
                seed = int(torch.empty((), dtype=torch.int64).random_().item())
            generator.manual_seed(seed)
            self.indices = divide(num, fraction, labels, generator)
            self._drawn_for = wanted
        return self.indices

    def state_dict(self) -> dict[str, Any]:
        """Return the indices and what they were drawn for."""
        return {"indices": list(self.indices or ()), "drawn_for": self._drawn_for}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        indices = state["indices"]
        self.indices = (indices[0], indices[1]) if indices else None
        self._drawn_for = list(state["drawn_for"])


def divide(
    num: int, fraction: float, labels: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the indices of the train and of the validation examples, drawn at random.

    With labels each class gives its share to the validation, to within one example, and keeps at
    least one to train on. Classes of a single example count as one class together.

    Args:
        num: How many examples there are.
        fraction: The part for validation, above 0 and below 1; both parts get at least one
            example.
        labels: The class of each example, shape (num,), integer; None draws from all alike.
        generator: What is drawn from.

    Returns:
        Two tensors of indices in rising order, int64.

    Raises:
        InvalidArgumentError: If the fraction cannot work.
        DataError: If there are fewer than two examples.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise InvalidArgumentError(
            f"validation_split is {fraction!r}; it must be the part of the examples to validate "
            "on, above 0 and below 1, for example 0.2."
        )
    if num < 2:
        raise DataError(f"validation_split needs at least 2 examples; there is {num}.")
    wanted = min(max(round(num * fraction), 1), num - 1)
    order = torch.randperm(num, generator=generator)
    if labels is None:
        chosen = order[:wanted]
    else:
        # The order within a class is random, as is the order of the classes in a tie.
        chosen = _by_class(order, _merged(labels)[order], wanted, generator)
    valid = chosen.sort().values
    is_train = torch.ones(num, dtype=torch.bool)
    is_train[valid] = False
    return is_train.nonzero().flatten(), valid


def part_arrays(
    named: Mapping[str, Any],
    split: Split,
    fraction: float,
    seed: int | None,
    target_keys: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arrays of the train examples and of the validation examples, as copies.

    Args:
        named: The arrays by the names that errors use: ``"x"``, with ``"y"`` unless it holds the
            targets too, and what else goes with them.
        split: What draws the indices.
        fraction: See `divide`.
        seed: See `Split.draw`.
        target_keys: The keys of a mapping that hold the target.
    """
    arrays = {name: as_arrays(array, name) for name, array in named.items()}
    whole = arrays["x"] if "y" not in arrays else (arrays["x"], arrays["y"])
    labels = class_labels(whole, target_keys)
    train, valid = split.draw(common_length(arrays), fraction, labels, seed)
    return (
        {name: _rows(array, train) for name, array in arrays.items()},
        {name: _rows(array, valid) for name, array in arrays.items()},
    )


def part_dataset(
    dataset: Any,
    name: str,
    split: Split,
    fraction: float,
    seed: int | None,
    target_keys: Sequence[str] = (),
) -> tuple[Any, Any]:
    """Return a dataset of the train examples and one of the validation examples.

    Args:
        dataset: A dataset with examples by index.
        name: What an error calls it.
        split: What draws the indices.
        fraction: See `divide`.
        seed: See `Split.draw`.
        target_keys: The columns of a Hugging Face dataset that hold the target.

    Raises:
        DataError: If its examples cannot be had by index.
    """
    by_index = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset | DataLoader) or not by_index:
        raise DataError(
            f"{name} is {kind_of(dataset)}, whose examples cannot be asked for by index, so "
            "validation_split cannot divide them. Pass arrays or a dataset, or divide the data "
            "beforehand."
        )
    labels = None if isinstance(dataset, list | tuple) else class_labels(dataset, target_keys)
    train, valid = split.draw(len(dataset), fraction, labels, seed)
    return _examples(dataset, train), _examples(dataset, valid)


def _examples(dataset: Any, indices: Tensor) -> Any:
    if type(dataset) in (TensorDataset, TorchTensorDataset):
        return type(dataset)(*(_rows(part, indices) for part in dataset.tensors))
    if hasattr(type(dataset), "select") and hasattr(type(dataset), "column_names"):
        return dataset.select(indices.tolist())  # a Hugging Face dataset stays one
    return Subset(dataset, indices.tolist())


def _rows(arrays: Any, indices: Tensor) -> Any:
    def take(leaf: Any) -> Tensor:
        tensor = from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf
        taken: Tensor = tensor[indices.to(tensor.device)]
        return taken

    return map_structure(arrays, take)


def _merged(labels: Tensor) -> Tensor:
    """Return labels from 0 without gaps, classes of a single example as one."""
    _, numbers, counts = labels.cpu().flatten().unique(return_inverse=True, return_counts=True)
    single = counts[numbers] == 1
    return torch.where(single, len(counts), numbers)


def _by_class(order: Tensor, labels: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    classes, counts = labels.unique(return_counts=True)
    exact = counts.double() * wanted / len(order)
    taken = exact.floor().long()
    spare = torch.where(counts > 1, counts - 1, counts) - taken
    # Those with the largest remainders get one more, until the number is right.
    ties = torch.rand(len(classes), dtype=torch.float64, generator=generator) * 1e-6
    for i in (exact - taken + ties).argsort(descending=True).tolist():
        if int(taken.sum()) >= wanted:
            break
        if int(spare[i]) > 0:
            taken[i] += 1
    pairs = zip(classes.tolist(), taken.tolist(), strict=True)
    return torch.cat([order[labels == value][:count] for value, count in pairs])
