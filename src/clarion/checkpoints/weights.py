"""Weights and other plain states in files that execute nothing when they are read."""

import contextlib
import io
import operator
import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors, save as save_safetensors
from torch import Tensor

from clarion.checkpoints.files import replace_file, save_with_torch
from clarion.errors import CheckpointError, InvalidTypeError, MissingFileError

__all__ = ["load_state", "plain_numbers", "save_state"]

_SCALAR = np.float64(0.0).__reduce__()[0]
_SAFE_NUMPY: list[Any] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # where numpy 1 had it
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]
"""What numpy's numbers are pickled as: Poutyne's optimizer files may hold learning rates so."""


def save_state(state: Mapping[str, Any], f: str | os.PathLike[str] | IO[bytes]) -> None:
    """Save a ``state_dict`` in a file that ``load_state`` reads.

    A name that ends in ``.safetensors`` gets that format, any other ``torch.save``'s; both are
    read by their own libraries, ``torch.load(weights_only=True)`` included. A file given by its
    path is replaced only when the new one is whole.

    Args:
        state: Tensors by name, or for ``torch.save`` nested dicts and lists of plain values too.
        f: A path or a binary file object.

    Raises:
        InvalidTypeError: If safetensors is asked to keep anything else than tensors.
    """
    if _suffix(f) == ".safetensors":
        blob = save_safetensors(_separate_tensors(state))
        _write(f, lambda file: file.write(blob))
    else:
        plain = plain_numbers(state)
        _write(f, lambda file: save_with_torch(plain, file))


def load_state(f: str | os.PathLike[str] | IO[bytes]) -> Any:
    """Return what ``save_state`` or ``torch.save`` put in a file, tensors on the CPU.

    The format is told by the content. Only tensors and plain values are read: a file that would
    run code is refused. A directory is read as a training checkpoint, of which the network's
    weights are returned.

    Args:
        f: A path or a binary file object.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If the file is broken, empty, or holds more than tensors and plain values.
    """
    if not isinstance(f, str | os.PathLike):
        return _read(f, getattr(f, "name", "the file"))
    path = Path(f)
    if path.is_dir():
        from clarion.checkpoints.reader import read_checkpoint

        return read_checkpoint(path, parts=["network"]).state["network"]
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below; a missing file has its own error
    except FileNotFoundError as error:
        raise MissingFileError(f'There is no file "{path}" to load{_neighbours(path)}') from error
    with file:
        return _read(file, path)


def plain_numbers(value: Any) -> Any:
    """Return ``value`` with numpy's numbers as Python's; the same object if there are none.

    ``torch.load(weights_only=True)`` refuses numpy's numbers.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        items = {key: plain_numbers(old) for key, old in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) in (list, tuple):
        new = [plain_numbers(item) for item in value]
        return type(value)(new) if any(map(operator.is_not, new, value)) else value
    return value


def _suffix(f: object) -> str:
    """Return the suffix of a path or of an open file's name, ``.tmp`` aside."""
    name = f if isinstance(f, str | os.PathLike) else getattr(f, "name", "")
    if not isinstance(name, str | os.PathLike):
        return ""
    return Path(os.fspath(name).removesuffix(".tmp")).suffix


def _write(f: str | os.PathLike[str] | IO[bytes], write: Any) -> None:
    if isinstance(f, str | os.PathLike):
        replace_file(Path(f), write)
    else:
        write(f)


def _separate_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors as safetensors wants them: contiguous, on the CPU, sharing nothing."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InvalidTypeError(
                f'A safetensors file holds tensors only; "{name}" is a {type(value).__name__}. '
                "Choose a name with another suffix, such as .pt."
            )
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def _read(file: IO[bytes], name: object) -> Any:
    if not file.seekable():
        file = io.BytesIO(file.read())
    start = file.tell()
    head = file.read(9)
    file.seek(start)
    if not head:
        raise CheckpointError(f'"{name}" is empty: nothing was saved in it, or it was cut off.')
    if head[8:] == b"{":  # safetensors: eight bytes of length, then a JSON object
        try:
            return load_safetensors(file.read())
        except SafetensorError as error:
            raise _broken(name, error) from error
    try:
        with torch.serialization.safe_globals(_SAFE_NUMPY), _quiet():
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _refused(name: object, error: Exception) -> CheckpointError:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = (
        f"{found[1]} has to be imported to read it" if found else "it is a pickle of other things"
    )
    return CheckpointError(
        f'"{name}" was refused: {what}, and that could run code. clarion reads tensors, numbers, '
        "strings, lists and dicts; save the state_dict instead of the object."
    )


def _broken(name: object, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f'"{name}" cannot be read: it is broken, cut off, or holds something else than saved '
        f"tensors ({reason}). Use another copy of it."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's advice about its own options away from the user, who has not set them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _neighbours(path: Path) -> str:
    """Return a list of the files of the same kind beside ``path``, as the end of a sentence."""
    try:
        names = sorted(other.name for other in path.parent.iterdir() if other.suffix == path.suffix)
    except OSError:
        return f'; the directory "{path.parent}" does not exist either.'
    if not names:
        return "."
    more = ", ..." if len(names) > 5 else ""
    return "; beside it: " + ", ".join(f'"{name}"' for name in names[:5]) + more + "."
