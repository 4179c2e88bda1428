"""Checkpoints written so that a kill at any moment leaves a whole one behind."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from clarion.checkpoints.files import flush_directory, free_megabytes, write_flushed
from clarion.checkpoints.manifest import Manifest
from clarion.checkpoints.structure import encode
from clarion.errors import CheckpointError

__all__ = [
    "STATE",
    "Encoded",
    "previous_of",
    "remove",
    "take_place",
    "write_checkpoint",
    "write_encoded",
]

STATE = "state.json"

Encoded = Mapping[str, tuple[Any, dict[str, Tensor]]]
"""What ``encode`` returned for each part, by its name."""


def write_checkpoint(
    directory: str | os.PathLike[str],
    state: Mapping[str, Any],
    *,
    info: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a checkpoint into a directory of its own, and keep the one before it.

    Each part's tensors stand in ``<part>.safetensors``, all other values in ``state.json``; the
    manifest with sizes and checksums is written last. All of it is written aside, flushed to the
    disk and renamed; the directory that was there becomes ``<directory>.previous``. Whenever the
    process is killed, one of the two is whole.

    Args:
        directory: Where the checkpoint shall stand; its parents are created.
        state: The parts by name, each of nested plain values and tensors (see ``encode``).
        info: Plain values for the manifest: epoch, step.

    Returns:
        The manifest.

    Raises:
        CheckpointError: If a part holds what a checkpoint cannot, or the disk refuses. What stood
            in ``directory`` is untouched then.
    """
    encoded = {part: encode(value, part) for part, value in state.items()}
    return write_encoded(Path(directory), encoded, dict(info or {}))


def write_encoded(
    directory: Path,
    encoded: Encoded,
    info: dict[str, Any],
    settings: dict[str, Any] | None = None,
) -> Manifest:
    """Do what ``write_checkpoint`` does, with the parts encoded already; see there.

    Args:
        directory: Where the checkpoint shall stand.
        encoded: The parts; their tensors must not change until this returns.
        info: Plain values for the manifest.
        settings: See ``Manifest.of``.
    """
    aside = directory.with_name(directory.name + ".tmp")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        remove(aside)
        aside.mkdir()
        for part, (_, tensors) in encoded.items():
            if tensors:
                _write_tensors(aside / f"{part}.safetensors", tensors)
        text = json.dumps({part: plain for part, (plain, _) in encoded.items()}, allow_nan=False)
        write_flushed(aside / STATE, lambda file: file.write(text.encode()))
        _share(aside)
        manifest = Manifest.of(aside, info, settings)
        manifest.write(aside)
        flush_directory(aside)
        take_place(aside, directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            remove(aside)
        raise CheckpointError(
            f'The checkpoint "{directory}" cannot be written: {error}. It needs '
            f"{_needed(encoded)} MB, {free_megabytes(aside.parent)} MB are free on its disk. "
            "The one before it is kept."
        ) from error
    return manifest


def previous_of(directory: Path) -> Path:
    """Return where the checkpoint before the one in ``directory`` is kept."""
    return directory.with_name(directory.name + ".previous")


def take_place(aside: Path, directory: Path) -> None:
    """Rename ``aside`` to ``directory``, and what is there to the previous one."""
    if directory.exists():
        previous = previous_of(directory)
        remove(previous)
        os.rename(directory, previous)
    os.rename(aside, directory)
    flush_directory(directory.parent)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():  # safetensors refuses tensors that share memory
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    try:
        save_file(separate, path)
    except Exception as error:  # SafetensorError, also for a full disk
        raise OSError(str(error)) from error
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _share(directory: Path) -> None:
    """Let everybody read the tensors who may read the rest; safetensors allows nobody else."""
    mode = (directory / STATE).stat().st_mode
    for path in directory.glob("*.safetensors"):
        path.chmod(mode)


def _needed(encoded: Encoded) -> str:
    """Return how many megabytes the tensors take."""
    size = sum(x.nbytes for _, tensors in encoded.values() for x in tensors.values())
    return f"{size / 1e6:.1f}"


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory with all that is in it; nothing if nothing is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
