"""Files of checkpoint callbacks: the old one stays until the new one is whole."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from clarion.checkpoints.files import flush_directory, free_megabytes, temporary_of
from clarion.errors import MissingFileError

__all__ = ["atomic_lambda_save", "make_directory", "open_file"]


def atomic_lambda_save(
    filename: str | os.PathLike[str],
    save_lambda: Callable[..., Any],
    args: Iterable[Any],
    *,
    temporary_filename: str | os.PathLike[str] | None = None,
    open_mode: str = "w",
    atomic: bool = True,
) -> None:
    """Call ``save_lambda(fd, *args)`` with a file that takes its place only when it is whole.

    The function writes to a temporary file, which is flushed to the disk and then renamed: after a
    crash at any moment there is the old file or the new one. If it cannot be renamed there (or not
    even created), a warning says so and the file is written directly. An error while writing
    leaves the old file as it was.

    Args:
        filename: The file. What is not a regular file (a pipe, a device) is written directly.
        save_lambda: Receives the open file, then ``args``.
        args: Further arguments.
        temporary_filename: Where to write first; if omitted a name of this call's own beside
            ``filename``, so that several writers do not disturb each other. On another disk than
            ``filename`` it cannot be renamed.
        open_mode: As for ``open``; text is UTF-8.
        atomic: Whether to use a temporary file at all.
    """
    target = Path(os.path.realpath(filename))  # a link stays a link
    if not atomic or (target.exists() and not target.is_file()):
        _write(target, save_lambda, args, open_mode)
        return
    temporary = Path(temporary_filename) if temporary_filename else temporary_of(target)
    try:
        fd = open_file(temporary, open_mode)
    except OSError as error:
        _warn_of_direct_writing(target, error)
        _write(target, save_lambda, args, open_mode)
        return
    args = list(args)  # perhaps needed twice
    try:
        _fill(fd, save_lambda, args)
    except BaseException as error:
        if isinstance(error, OSError):
            _explain(error, target, temporary)
        _remove(temporary)
        raise
    try:
        os.replace(temporary, target)
    except OSError as error:
        _warn_of_direct_writing(target, error)
        _remove(temporary)
        _write(target, save_lambda, args, open_mode)
        return
    flush_directory(target.parent)


def make_directory(directory: Path, asker: str) -> None:
    """Make a directory for files, before there is anything to write.

    Args:
        directory: The directory; it may exist.
        asker: Who asks for it, for the error: ``'CSVLogger(filename="a/log.csv")'``.

    Raises:
        MissingFileError: If it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MissingFileError(
            f'{asker}: there is no directory "{directory}", and it cannot be made ({error}). '
            "Choose a place where you may write."
        ) from error


def open_file(path: str | os.PathLike[str], mode: str) -> IO[Any]:
    """Open a file as ``open`` does, text as UTF-8."""
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def _write(
    path: Path, save_lambda: Callable[..., Any], args: Iterable[Any], open_mode: str
) -> None:
    _fill(open_file(path, open_mode), save_lambda, args)


def _fill(fd: IO[Any], save_lambda: Callable[..., Any], args: Iterable[Any]) -> None:
    with fd:
        save_lambda(fd, *args)
        fd.flush()
        with contextlib.suppress(OSError):  # pipes and some disks flush nothing
            os.fsync(fd.fileno())


def _explain(error: OSError, target: Path, temporary: Path) -> None:
    """Name the file in the error of a disk that refuses it, and what there was room for."""
    if error.filename is None:
        error.filename = str(target)
    size = temporary.stat().st_size / 1e6
    error.add_note(
        f"It failed after {size:.1f} MB; {free_megabytes(target.parent)} MB are free on this disk. "
        f'"{target.name}" is as it was before.'
    )


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _warn_of_direct_writing(target: Path, error: OSError) -> None:
    warnings.warn(
        f'"{target}" cannot be replaced in one go ({error}): it is written directly, and would be '
        "broken if that were interrupted.",
        stacklevel=3,
    )
