"""Checkpoints checked and read, the one before taken if the newest is broken."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from clarion.checkpoints.async_writer import wait_for_writes
from clarion.checkpoints.manifest import MANIFEST, Manifest, NewerFormatError
from clarion.checkpoints.retention import kept_beside
from clarion.checkpoints.structure import decode
from clarion.checkpoints.writer import STATE, previous_of
from clarion.errors import CheckpointError, MissingFileError

__all__ = ["Checkpoint", "read_checkpoint", "read_newest"]

_TRIES = 8
_PAUSE = 0.05  # seconds: two renames take less


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read.

    Attributes:
        directory: Where it stands.
        state: The parts by name.
        manifest: What it says about itself.
    """

    directory: Path
    state: dict[str, Any]
    manifest: Manifest


def read_checkpoint(
    directory: str | os.PathLike[str], *, parts: Iterable[str] | None = None
) -> Checkpoint:
    """Check every file of a checkpoint and return what it holds, tensors on the CPU.

    One that this process is writing is waited for. One that another process replaces meanwhile is
    read again: what is returned is of one checkpoint.

    Args:
        directory: Where it stands.
        parts: The parts to read; all if None.

    Raises:
        MissingFileError: If there is no such directory.
        CheckpointError: If a file is missing or broken, or a newer clarion wrote it.
    """
    directory = Path(directory)
    wait_for_writes(directory)
    wanted = None if parts is None else list(parts)
    for _ in range(_TRIES):
        before = _identity(directory)
        try:
            checkpoint = _read(directory, wanted)
        except NewerFormatError:
            raise
        except (CheckpointError, MissingFileError):
            if not _is_being_replaced(directory, before):
                raise
        else:
            if _identity(directory) == before:
                return checkpoint
        time.sleep(_PAUSE)
    return _read(directory, wanted)


def _identity(directory: Path) -> tuple[int, int] | None:
    """Return what tells one manifest from another in its place; None if there is none."""
    try:
        found = (directory / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _is_being_replaced(directory: Path, before: tuple[int, int] | None) -> bool:
    """Tell whether the manifest is another one now, or about to be: between the two renames."""
    now = _identity(directory)
    is_between = not directory.exists() and previous_of(directory).exists()
    return is_between or now != before


def _read(directory: Path, parts: list[str] | None) -> Checkpoint:
    if not directory.exists():
        raise MissingFileError(f'There is no checkpoint directory "{directory}".')
    if not directory.is_dir():
        raise CheckpointError(f'"{directory}" is a file where a checkpoint has a directory.')
    manifest = Manifest.read(directory)
    if STATE not in manifest.files:
        raise CheckpointError(
            f'"{directory / MANIFEST}" is broken: its files lack "{STATE}", which every checkpoint '
            "has."
        )
    manifest.verify(directory)
    try:
        plain = json.loads((directory / STATE).read_text(encoding="utf-8"))
        wanted = list(plain) if parts is None else parts
        state = {part: _read_part(directory, part, plain[part]) for part in wanted}
    except KeyError as error:
        raise CheckpointError(
            f'"{directory}" has no {error}; it holds the parts {", ".join(plain)}.'
        ) from error
    except Exception as error:
        raise CheckpointError(f'"{directory}" cannot be read: {error}.') from error
    return Checkpoint(directory, state, manifest)


def read_newest(directory: str | os.PathLike[str]) -> Checkpoint | None:
    """Return the checkpoint in ``directory``, or an earlier one if that is broken.

    Earlier ones are the one before it, and those that are kept of other epochs. A broken one is
    named in a warning and set aside as ``<directory>.broken-<n>``, so that it never takes the
    place of a good one. Several processes may do so at the same time: one of them sets it aside,
    and all return the same.

    Args:
        directory: Where ``write_checkpoint`` wrote.

    Returns:
        The checkpoint; None if there has never been one.

    Raises:
        CheckpointError: If all there are are broken, or a newer clarion wrote them.
    """
    directory = Path(directory)
    wait_for_writes(directory)
    if not directory.exists():
        return _read_without_newest(directory)
    try:
        return read_checkpoint(directory)
    except NewerFormatError:
        raise
    except (CheckpointError, MissingFileError) as error:
        checkpoint = _read_earlier(directory, error)
        warnings.warn(
            f"{error} An earlier checkpoint is used instead: {_described(checkpoint)}.",
            stacklevel=2,
        )
        _set_aside(directory)
        return checkpoint


def _read_without_newest(directory: Path) -> Checkpoint | None:
    """Return an earlier checkpoint where the newest has no directory."""
    previous = previous_of(directory)
    if any(directory.parent.glob(f"{directory.name}.broken-*")):  # or another rank has set it aside
        there = [path for path in (previous, *kept_beside(directory)) if path.exists()]
        gone = CheckpointError(f'"{directory}" was broken and has been set aside.')
        return _read_earlier(directory, gone) if there else None
    # A kill between the two renames leaves only the previous one.
    return read_checkpoint(previous) if previous.exists() else None


def _read_earlier(directory: Path, newest: Exception) -> Checkpoint:
    errors = [str(newest)]
    for path in (previous_of(directory), *kept_beside(directory)):
        try:
            return read_checkpoint(path)
        except MissingFileError:
            pass
        except CheckpointError as error:
            errors.append(f"Neither is an earlier one of help: {error}")
    if len(errors) == 1:
        raise newest
    raise CheckpointError(" ".join(errors)) from newest


def _read_part(directory: Path, part: str, plain: Any) -> Any:
    path = directory / f"{part}.safetensors"
    tensors = {}
    if path.exists():
        # Cloned: what was loaded must not stay a view of a file that will be removed.
        tensors = {name: x.clone() for name, x in load_file(path).items()}
    return decode(plain, tensors)


def _described(checkpoint: Checkpoint) -> str:
    info = ", ".join(f"{key} {value}" for key, value in checkpoint.manifest.info.items())
    return f'"{checkpoint.directory}"' + (f" ({info})" if info else "")


def _set_aside(directory: Path) -> None:
    number = 1
    while (broken := directory.with_name(f"{directory.name}.broken-{number}")).exists():
        number += 1
    with contextlib.suppress(FileNotFoundError):  # another rank has done it meanwhile
        os.rename(directory, broken)
