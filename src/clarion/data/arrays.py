"""Batches sliced from arrays in memory, a block of many at a time."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat, starmap
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from clarion.arguments import check_whole_number
from clarion.data.dataset import common_length
from clarion.data.nested import from_numpy, map_structure
from clarion.errors import DataError, InvalidTypeError, kind_of, quoted

__all__ = ["ArrayBatches", "as_arrays", "is_table", "place"]

_ROOM = 2**30  # bytes, on devices that do not tell what is free
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_NUMBER = (bool, int, float, np.number)
_BATCHES_PER_BLOCK = 64
_BYTES_PER_BLOCK = 2**19  # what a processor's cache holds: the copy of a block costs 2 % then


class ArrayBatches:
    """Batches of arrays in memory, in order or shuffled anew at each traversal.

    A block of some 64 batches is gathered at once and handed out as views of it, which is many
    times faster than fetching examples one by one and stacking them. Random numbers are drawn as
    ``torch.utils.data.DataLoader`` draws them, so a seed gives the same batches as there.

    Args:
        arrays: Tensors or ndarrays of shape (examples, ...), or nested lists, tuples and mappings
            of them. Each batch has the same structure.
        batch_size: Examples in a batch; the last one may be smaller.
        shuffle: Whether the order is random.
        drop_last: Whether a last batch that is not full is left out.
        generator: What random numbers are drawn from; torch's global generator if None.
    """

    def __init__(
        self,
        arrays: Any,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check_whole_number("batch_size", batch_size, 1)
        # Of rows that stand on a disk those near each other are read together.
        self._on_disk = any(map(_is_mapped, _leaves(arrays)))
        self.arrays = map_structure(arrays, _as_tensor)
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.generator = generator
        self._device: torch.device | None = None
        self._length = common_length({"the data": self.arrays})

    def place(self, device: torch.device | None) -> None:
        """Have batches on a device: all arrays are moved there if they fit, else block by block.

        Args:
            device: Where the network is; None changes nothing.
        """
        if device is None or device.type == "cpu":
            return
        self._device = device
        leaves = _leaves(self.arrays)
        # Doubles stay: they become floats on the way, and some devices have none.
        if self._on_disk or any(leaf.dtype is torch.float64 for leaf in leaves):
            return
        needed = sum(leaf.nbytes for leaf in leaves if leaf.device != device)
        if needed <= _room_on(device):
            self.arrays = map_structure(self.arrays, lambda leaf: leaf.to(device))

    @property
    def num_examples(self) -> int:
        """The number of examples that a traversal gives."""
        return len(self) * self.batch_size if self.drop_last else self._length

    def __len__(self) -> int:
        full, rest = divmod(self._length, self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Any]:
        return self.begin()

    def begin(self, first: int = 0) -> Iterator[Any]:
        """Draw the order of a traversal, and return its batches from one on.

        Args:
            first: How many batches are left out at the beginning. A block of these alone is not
                gathered.
        """
        return self._batches(self._draw_order(), first)

    def _batches(self, order: Tensor | None, first: int) -> Iterator[Any]:
        num_batches = len(self)
        per_block = self._batches_per_block()
        # Blocks begin where they do in a whole traversal: the address of a batch, too, decides how
        # kernels round, and a resumed training is to round like one that never stopped.
        for begin in range(first - first % per_block, num_batches, per_block):
            count = min(per_block, num_batches - begin)
            start = begin * self.batch_size
            stop = min(start + count * self.batch_size, self._length)
            yield from islice(self._batches_of(start, stop, order), max(0, first - begin), None)

    def _batches_of(self, start: int, stop: int, order: Tensor | None) -> Iterator[Any]:
        def gather(tensor: Tensor) -> Tensor:
            if order is None:
                # A copy, as a loader's batches are: the network may work in place.
                return tensor[start:stop].clone()
            if not self._on_disk:
                return _rows(tensor, order[start:stop].to(tensor.device))
            rows, places = order[start:stop].sort()
            block = torch.empty((stop - start, *tensor.shape[1:]), dtype=tensor.dtype)
            block[places] = _rows(tensor, rows)
            return block

        block = map_structure(self.arrays, gather)
        if self._device is not None:
            block = map_structure(block, self._moved)
        yield from _cut(block, self.batch_size)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.dtype is torch.float64 else tensor.to(self._device)

    def _draw_order(self) -> Tensor | None:
        # A loader draws a seed for its workers before its sampler draws one for the order.
        _draw_seed(self.generator)
        if not self.shuffle:
            return None
        generator = self.generator
        if generator is None:
            generator = torch.Generator()
            generator.manual_seed(_draw_seed(None))
        return torch.randperm(self._length, generator=generator)

    def _batches_per_block(self) -> int:
        leaves = _leaves(self.arrays)
        per_example = sum(leaf.element_size() * leaf[:1].numel() for leaf in leaves)
        fitting = _BYTES_PER_BLOCK // max(1, per_example * self.batch_size)
        return max(1, min(_BATCHES_PER_BLOCK, int(fitting)))


def place(loader: Any, device: torch.device | None) -> None:
    """Have the batches of arrays on a device, see `ArrayBatches.place`; leave other loaders alone.

    Args:
        loader: An iterable of batches.
        device: Where the network is; None if it was never moved.
    """
    if isinstance(loader, ArrayBatches):
        loader.place(device)


def as_arrays(data: Any, name: str) -> Any:
    """Return the same structure with every leaf a tensor or ndarray.

    Args:
        data: Tensors, ndarrays, data frames and series, tables of plain numbers (`is_table`), or
            nested lists, tuples and mappings of them.
        name: What an error calls it.

    Raises:
        InvalidTypeError: If a leaf is nothing of these.
        DataError: If an array holds no numbers, or the rows of a table differ in length.
    """
    strided = isinstance(data, Tensor) and data.layout is torch.strided
    if strided or isinstance(data, PackedSequence):
        return data
    if isinstance(data, Tensor) or hasattr(data, "toarray"):
        way = "to_dense" if isinstance(data, Tensor) else "toarray"
        raise InvalidTypeError(
            f"{name} is {kind_of(data)} with sparse storage, which cannot be cut into batches. "
            f"Pass {name}.{way}(), or a Dataset whose examples are dense to fit_dataset."
        )
    if hasattr(data, "to_numpy"):
        return _numbers(np.asarray(data.to_numpy()), name, data)
    if isinstance(data, np.ndarray):
        # By its attribute: np.ma is loaded by those who use it.
        hidden = np.count_nonzero(getattr(data, "mask", False))
        if hidden:
            raise DataError(
                f"{name} is a masked array in which {hidden} values are masked, and a network "
                f"would see what is under the mask. Pass {name}.filled(0), or leave out these rows."
            )
        return _numbers(data, name, data)
    if isinstance(data, Mapping):
        return {key: as_arrays(value, f'{name}["{key}"]') for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        data = data if isinstance(data, list | tuple) else list(data)
        if is_table(data):
            return _as_table(data, name)
        parts = [as_arrays(item, f"{name}[{i}]") for i, item in enumerate(data)]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    if isinstance(data, str) and data.endswith(".npy"):
        raise InvalidTypeError(
            f'{name} is the name of a file. Pass its array, np.load("{data}", mmap_mode="r"): rows '
            "are read from the file as they are needed."
        )
    raise InvalidTypeError(
        f"{name} is {kind_of(data)}; pass an ndarray, a tensor, a data frame, or lists, "
        "tuples and dicts of them. For a Dataset use fit_dataset, for a loader fit_generator."
    )


def is_table(data: Any) -> bool:
    """Tell whether something is a list of numbers, or a list of rows of numbers.

    A tuple of rows is none: in a tuple each entry is an input of its own.
    """
    if not isinstance(data, list | tuple) or not data:
        return False
    if all(isinstance(item, _NUMBER) for item in data):
        return True
    return isinstance(data, list) and all(_is_row(item) for item in data)


def _is_row(item: Any) -> bool:
    if not isinstance(item, list | tuple) or not item:
        return False
    return all(isinstance(part, _NUMBER) or _is_row(part) for part in item)


def _as_table(data: Sequence[Any], name: str) -> Tensor:
    try:
        return torch.tensor(data)
    except ValueError as error:
        raise DataError(
            f"{name} is a list of rows of different lengths, so it has no shape: {error}. "
            "Pad the rows, or pass a Dataset with a collate_fn to fit_dataset."
        ) from error


def _numbers(array: np.ndarray, name: str, source: Any) -> np.ndarray:
    if array.dtype.kind not in "OUSVMm":
        return array
    kinds = getattr(source, "dtypes", None)
    if kinds is not None and hasattr(kinds, "items"):  # a data frame: say which columns
        wrong = [column for column, dtype in kinds.items() if dtype.kind in "OUSVMm"]
        about = f"{name} is a DataFrame whose columns {quoted(wrong)} hold no numbers"
        if not wrong:
            return np.asarray(source.to_numpy(dtype=np.float64))  # booleans beside floats
    else:
        about = f"{name} is {kind_of(source)} of dtype {array.dtype}, which is no number"
    raise DataError(
        f"{about}. Encode text, dates and categories as numbers first, or convert with "
        ".astype(...)."
    )


def _cut(block: Any, size: int) -> Iterator[Any]:
    """Return the batches of a structure of tensors, as views."""
    if isinstance(block, Tensor):
        return iter(block.split(size))
    if not block:
        return repeat(block)  # an empty list beside arrays
    if isinstance(block, Mapping):
        names = list(block)
        values = zip(*[_cut(part, size) for part in block.values()], strict=False)
        return (dict(zip(names, batch, strict=True)) for batch in values)
    parts = zip(*[_cut(part, size) for part in block], strict=False)
    if type(block) is tuple:
        return parts
    return starmap(type(block), parts) if hasattr(block, "_fields") else map(type(block), parts)


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    # Two to four times as fast as tensor[rows], which keeps the memory format of images; vectors of
    # some dtypes torch cannot select from (2.13).
    if tensor.is_contiguous() and tensor.dtype not in _UNSIGNED:
        return tensor.index_select(0, rows)
    return tensor[rows]


def _is_mapped(leaf: Any) -> bool:
    """Tell whether an array's memory is that of a file."""
    while isinstance(leaf, np.ndarray):
        if isinstance(leaf, np.memmap):
            return True
        leaf = leaf.base
    return False


def _leaves(structure: Any) -> list[Any]:
    leaves: list[Any] = []
    map_structure(structure, leaves.append)
    return leaves


def _room_on(device: torch.device) -> int:
    """Return how many bytes of a device arrays may take: a quarter of what is free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 4
    return _ROOM


def _as_tensor(leaf: Any) -> Any:
    return from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf


def _draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())
