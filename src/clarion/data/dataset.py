"""A dataset over tensors, nested as the user has them."""

from collections.abc import Mapping
from typing import Any

from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset

from clarion.data.nested import map_structure
from clarion.errors import DataError, InvalidArgumentError, LengthMismatchError, kind_of

__all__ = ["TensorDataset", "common_length"]


class TensorDataset(Dataset[tuple[Any, ...]]):
    """A dataset whose example ``i`` is the tuple of ``tensor[i]`` of all its tensors.

    Args:
        tensors: Tensors or ndarrays, or nested lists, tuples and mappings of them, all with the
            same length. A structure keeps its shape in each example.

    Raises:
        LengthMismatchError: If lengths differ.
        DataError: If something has no length.

    Example:
        >>> import torch
        >>> TensorDataset(torch.tensor([1, 2]), [torch.tensor([3, 4]), torch.tensor([5, 6])])[0]
        (tensor(1), [tensor(3), tensor(5)])
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise InvalidArgumentError("TensorDataset needs at least one tensor.")
        self.tensors = tensors
        self._length = common_length({f"tensor {i}": t for i, t in enumerate(tensors)})

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(map_structure(tensor, lambda leaf: leaf[index]) for tensor in self.tensors)

    def __len__(self) -> int:
        return self._length


def common_length(named: dict[str, Any]) -> int:
    """Return the length that all arrays share.

    Args:
        named: Structures of arrays by the names that an error should use; None is passed over.

    Raises:
        LengthMismatchError: If lengths differ; the message names each part and its length.
        DataError: If a leaf has no length.
    """
    lengths: dict[str, int] = {}
    for name, structure in named.items():
        if structure is not None:
            _collect(name, structure, lengths)
    if len(set(lengths.values())) > 1:
        # The first of each length: of a hundred arrays nobody wants to read all.
        firsts: dict[int, str] = {}
        for name, length in lengths.items():
            firsts.setdefault(length, name)
        listed = ", ".join(f"{name} has {length}" for length, name in firsts.items())
        remedy = "check how they were built"
        for name, structure in named.items():
            if isinstance(structure, list) and len(structure) in firsts:
                remedy = (
                    f"{name} is a list, of {len(structure)} inputs: if it lists examples, pass "
                    f"np.stack({name})"
                )
        raise LengthMismatchError(
            f"The arrays have different numbers of examples: {listed}. "
            f"Each example needs one entry in every array; {remedy}."
        )
    if not lengths:
        raise DataError(
            f"There is no array in {' and '.join(named)}, so there are no examples; pass at least "
            "one array of shape (examples, ...)."
        )
    return next(iter(lengths.values()))


def _collect(name: str, structure: Any, lengths: dict[str, int]) -> None:
    if isinstance(structure, Mapping):
        for key, value in structure.items():
            _collect(f'{name}["{key}"]', value, lengths)
    elif isinstance(structure, list | tuple) and not isinstance(structure, PackedSequence):
        for position, value in enumerate(structure):
            _collect(f"{name}[{position}]", value, lengths)
    elif getattr(structure, "ndim", 0) < 1:
        shape = getattr(structure, "shape", None)
        what = kind_of(structure) if shape is None else f"of shape {tuple(shape)}"
        raise DataError(
            f"{name} is {what}, which has no examples along a first dimension. "
            "Pass an array or tensor of shape (examples, ...)."
        )
    else:
        lengths[name] = len(structure)
