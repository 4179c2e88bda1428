"""Files that are there whole or not at all."""

import contextlib
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from clarion.errors import MissingFileError

__all__ = [
    "checksum",
    "flush_directory",
    "free_megabytes",
    "replace_file",
    "save_with_torch",
    "temporary_of",
    "write_flushed",
]

_CHUNK = 1 << 20
_ABANDONED = 600  # seconds after which a file that nobody finishes is removed
_FORGOTTEN = 86400  # the same where its process seems to run: numbers come again


def write_flushed(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Open ``path`` for writing, let ``write`` fill it, and wait until the disk has it.

    Args:
        path: The file; an existing one is overwritten.
        write: Receives the open binary file.
    """
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Put a new file in the place of ``path``: the old one stays until the new one is whole.

    Args:
        path: The file. What is not a regular file (a pipe, a device) is written directly.
        write: Receives the open binary file.

    Raises:
        MissingFileError: If the directory of ``path`` does not exist.
    """
    if not path.parent.is_dir():
        raise MissingFileError(
            f'"{path}" cannot be written: there is no directory "{path.parent}". Create it first.'
        )
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            write(file)
        return
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = temporary_of(path)
    try:
        write_flushed(temporary, write)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    flush_directory(path.parent)


def temporary_of(path: Path) -> Path:
    """Return a name beside ``path`` to write under first, which no other writer has.

    It ends in ``.tmp``. Files of that kind whose writers were killed are removed.

    Args:
        path: The file that is to be replaced.
    """
    own = re.compile(rf"{re.escape(path.stem)}\.(\d+)-[0-9a-f]{{8}}{re.escape(path.suffix)}\.tmp")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if found := own.fullmatch(name):
                _remove_abandoned(path.with_name(name), int(found[1]))
    # Ranks in containers may have the same number: only chance tells their processes apart.
    return path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}.tmp")


def save_with_torch(value: Any, file: str | os.PathLike[str] | IO[bytes]) -> None:
    """Save with ``torch.save``, which hides an error of the disk behind one of its own.

    Raises:
        OSError: If the disk refuses.
    """
    try:
        torch.save(value, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def free_megabytes(directory: Path) -> str:
    """Return how many megabytes are free on the disk of ``directory``, ``"?"`` if unknown."""
    try:
        return f"{shutil.disk_usage(directory).free / 1e6:.1f}"
    except OSError:
        return "?"


def flush_directory(directory: Path) -> None:
    """Wait until the disk has the names in ``directory``; where that is impossible, do nothing."""
    with contextlib.suppress(OSError):  # Windows opens no directories, some disks flush none
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file: it finds accidents, it is no signature."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _remove_abandoned(path: Path, process: int) -> None:
    with contextlib.suppress(OSError):  # somebody else has removed or finished it
        age = time.time() - path.stat().st_mtime
        if age > (_FORGOTTEN if _seems_to_run(process) else _ABANDONED):
            path.unlink()


def _seems_to_run(process: int) -> bool:
    """Tell whether there is such a process here; on Windows there always seems to be."""
    if os.name != "posix":
        return True  # there, a signal of 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
