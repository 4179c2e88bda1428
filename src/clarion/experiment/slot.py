"""The place of an experiment's training checkpoint, guarded by what may go wrong there."""

import os
from collections.abc import Mapping
from typing import Any

from clarion.checkpoints.async_writer import BackgroundWriter
from clarion.checkpoints.lock import DirectoryLock
from clarion.checkpoints.manifest import Manifest
from clarion.checkpoints.retention import Retention
from clarion.experiment.trouble import DiskTrouble

__all__ = ["CheckpointSlot"]


class CheckpointSlot:
    """Writes the training checkpoint in the background, while the directory is this training's.

    An error of the disk is a warning at the next step, and an error at the end.

    Args:
        directory: Where the checkpoint stands; the one before is kept beside it.
        trouble: Where errors of the disk are kept, those of other files too.
        lock: What has to be held whenever something is written.
        retention: Which checkpoints of epochs stay.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        trouble: DiskTrouble,
        lock: DirectoryLock,
        retention: Retention,
    ) -> None:
        self._writer = BackgroundWriter(directory, self._keep)
        self._trouble = trouble
        self._lock = lock
        self._retention = retention

    def write(self, state: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; see ``BackgroundWriter``.

        Raises:
            DirectoryInUseError: If another training has taken the directory.
            CheckpointError: If the state holds what a checkpoint cannot.
        """
        self._lock.check()
        self._hear()
        self._writer.write(state, info=info)

    def catch_up(self) -> None:
        """Keep what stands, if a kill left no time for that when it was written."""
        directory = self._writer.directory
        if directory.exists():
            with self._trouble.outlived(str(directory)):
                self._keep(Manifest.read(directory))

    def check(self) -> None:
        """Warn of a write that has failed; do not wait for one that is under way."""
        if self._writer.has_failed:
            self._hear()

    def wait(self) -> None:
        """Wait for the write under way.

        Raises:
            CheckpointError: If it failed.
        """
        self._writer.wait()

    def finish(self) -> None:
        """Wait for the write under way, the last one.

        Raises:
            CheckpointError: If it failed, or the last try of another file did.
        """
        self._writer.wait()
        self._trouble.settle(str(self._writer.directory))

    def _hear(self) -> None:
        with self._trouble.outlived(str(self._writer.directory)):
            self._writer.wait()

    def _keep(self, manifest: Manifest) -> None:
        self._retention.apply(self._writer.directory, manifest)
