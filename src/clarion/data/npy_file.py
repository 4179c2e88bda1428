"""An array written row by row into a file of numpy's format, which is there whole or not at all."""

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from clarion.checkpoints.files import temporary_of
from clarion.errors import InvalidArgumentError, InvalidTypeError, MissingFileError, kind_of

__all__ = ["NpyFile"]

_HEADER = 256  # bytes, a multiple of 64; the same for any number of rows


class NpyFile:
    """The rows of one array, mapped into memory from a file; a `Store`.

    As a context manager it removes what is unfinished. Until it is finished the file has another
    name, so that an older one stays.

    Args:
        path: The file, which ends in ``.npy``.

    Raises:
        InvalidTypeError: If it is no path.
        InvalidArgumentError: If it ends otherwise.
        MissingFileError: If its directory does not exist.

    Source:
        The format is that of ``numpy.lib.format``, version 1.0.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InvalidTypeError(
                f"out is {kind_of(path)}; it is the name of the file that the predictions are "
                'written into, for example "p.npy". They are returned, too.'
            )
        self.path = Path(path)
        if self.path.suffix != ".npy":
            raise InvalidArgumentError(
                f'out is "{path}"; the predictions are written in numpy\'s format, so its name '
                'ends in ".npy". np.load reads it.'
            )
        if not self.path.parent.is_dir():
            raise MissingFileError(
                f'"{path}" cannot be written: there is no directory "{self.path.parent}". Create '
                "it first."
            )
        self._temporary = temporary_of(self.path)
        self._dtype = np.dtype(np.float32)
        self._tail: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def resize(self, rows: int, like: Tensor, kept: int) -> Tensor:
        """Return the file, mapped into memory, with room for this many rows."""
        self._dtype, self._tail = like.cpu().numpy().dtype, tuple(like.shape[1:])
        self._set_rows(rows)
        mapped: Any = np.memmap(
            self._temporary, self._dtype, "r+", offset=_HEADER, shape=(rows, *self._tail)
        )
        return torch.from_numpy(mapped)

    def finish(self, rows: int) -> Any:
        """Give the file its name, and return its array, mapped into memory to be read."""
        self._set_rows(rows)
        with open(self._temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self.path)
        return np.load(self.path, mmap_mode="r")

    def _set_rows(self, rows: int) -> None:
        size = self._dtype.itemsize * rows * int(np.prod(self._tail, dtype=np.int64))
        with open(self._temporary, "rb+" if self._temporary.exists() else "wb") as file:
            file.write(self._header(rows))
            file.truncate(_HEADER + size)

    def _header(self, rows: int) -> bytes:
        about = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (rows, *self._tail),
        }
        start = np.lib.format.magic(1, 0) + (_HEADER - 10).to_bytes(2, "little")
        return start + repr(about).encode("latin1").ljust(_HEADER - 11) + b"\n"
