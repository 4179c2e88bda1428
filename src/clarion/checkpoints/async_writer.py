"""Checkpoints written by a thread, from copies, while the training goes on."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import Any

import torch
from torch import Tensor

from clarion.checkpoints.manifest import Manifest, environment
from clarion.checkpoints.structure import encode
from clarion.checkpoints.writer import Encoded, write_encoded

__all__ = ["BackgroundWriter", "wait_for_writes"]

_UNDER_WAY: dict[Path, Thread] = {}
"""The thread that wrote last, or writes, by the directory that it writes."""


class BackgroundWriter:
    """Writes the checkpoints of one directory, one at a time, in the background.

    ``write`` copies the tensors into memory of its own, which is kept for the next time, and
    returns; a thread writes, checks and renames. The copies take as much memory as a checkpoint
    does on the disk. The interpreter does not end before a write that has begun.

    In a process that was forked meanwhile, such as one that loads data, there is no thread, and
    nothing to wait for.

    Args:
        directory: Where the checkpoint stands; see ``write_checkpoint``.
        then: Called by the thread with the manifest when a checkpoint stands on the disk.
    """

    def __init__(
        self, directory: str | os.PathLike[str], then: Callable[[Manifest], None] | None = None
    ) -> None:
        self.directory = Path(directory)
        self._then = then
        self._kept: dict[tuple[str, str], Tensor] = {}
        self._thread: Thread | None = None
        self._error: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a write is under way."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_failed(self) -> bool:
        """Whether a write has failed whose error nobody has heard of."""
        return self._error is not None

    def write(self, state: Mapping[str, Any], *, info: Mapping[str, Any] | None = None) -> None:
        """Copy the state and begin to write it; what happens to it afterwards changes nothing.

        The write before is waited for, and its error, if it had one, is raised here; call
        ``wait`` first to hear of it apart.

        Args:
            state: The parts by name; see ``write_checkpoint``.
            info: Plain values for the manifest.

        Raises:
            CheckpointError: If a part holds what a checkpoint cannot, or the write before failed.
        """
        self.wait()
        encoded: dict[str, tuple[Any, dict[str, Tensor]]] = {}
        kept: dict[tuple[str, str], Tensor] = {}
        for part, value in state.items():
            encoded[part] = encode(value, part, _Copies(part, self._kept))
            kept |= {(part, name): tensor for name, tensor in encoded[part][1].items()}
        self._kept = kept
        arguments = (encoded, dict(info or {}), environment())
        self._thread = Thread(target=self._run, args=arguments, name="clarion checkpoint")
        _UNDER_WAY[_known_as(self.directory)] = self._thread
        self._thread.start()

    def wait(self) -> None:
        """Wait for the write under way, if there is one.

        Raises:
            CheckpointError: If it failed; it is raised once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, encoded: Encoded, info: dict[str, Any], settings: dict[str, Any]) -> None:
        try:
            manifest = write_encoded(self.directory, encoded, info, settings)
            if self._then is not None:
                self._then(manifest)
        except Exception as error:
            if not main_thread().is_alive():
                raise  # nobody is left to ask: Python prints it
            self._error = error


def wait_for_writes(directory: str | os.PathLike[str]) -> None:
    """Wait for a write of this process into ``directory`` or one beside it, if it is under way.

    What is kept beside a checkpoint, the best one and those of epochs, follows from its write.
    Whether that failed is for its writer to tell.
    """
    parent = _known_as(directory).parent
    for path, thread in list(_UNDER_WAY.items()):
        if path.parent == parent and thread is not current_thread():
            thread.join()
            if _UNDER_WAY.get(path) is thread:
                del _UNDER_WAY[path]


class _Copies:
    """Copies the tensors of a part into those kept from the last time, where they are alike."""

    def __init__(self, part: str, kept: Mapping[tuple[str, str], Tensor]) -> None:
        self._part = part
        self._kept = kept

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        copy = self._kept.get((self._part, name))
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype)
        return copy.copy_(tensor)


def _known_as(directory: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(directory))
