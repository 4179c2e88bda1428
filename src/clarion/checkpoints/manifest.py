"""What a checkpoint says about itself: its files, their sizes and checksums, and what wrote it."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clarion._version import __version__
from clarion.checkpoints.files import checksum, write_flushed
from clarion.errors import CheckpointError, kind_of

__all__ = ["FORMAT", "MANIFEST", "FileEntry", "Manifest", "NewerFormatError", "environment"]

FORMAT = 2
"""The number of the format that this version writes; it reads this and all before."""

MANIFEST = "manifest.json"


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a clarion that is newer than this one."""


@dataclass(frozen=True)
class FileEntry:
    """What a file has to be: its size in bytes and its CRC-32."""

    size: int
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """The list of a checkpoint's files, written last.

    Attributes:
        files: Size and checksum of each file, by name.
        info: Plain values for people and programs: epoch, step, why it was written.
        environment: Versions and settings under which it was written.
        format: The number of the format.
    """

    files: dict[str, FileEntry]
    info: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def of(
        cls, directory: Path, info: dict[str, Any], settings: dict[str, Any] | None = None
    ) -> "Manifest":
        """Return the manifest of the files that are in ``directory`` now.

        Args:
            directory: Where they are.
            info: See the attribute.
            settings: What ``environment`` returned in the thread that trains; its answer now if
                None. The number of threads is one of each thread's own.
        """
        files = {
            path.name: FileEntry(path.stat().st_size, checksum(path))
            for path in sorted(directory.iterdir())
            if path.name != MANIFEST
        }
        return cls(files, info, environment() if settings is None else settings)

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Return the manifest that stands in ``directory``.

        Raises:
            CheckpointError: If there is none, or it is broken.
            NewerFormatError: If a newer clarion wrote it.
        """
        path = directory / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            written = int(content["format"])
        except FileNotFoundError as error:
            raise CheckpointError(
                f'"{directory}" is no whole checkpoint: it has no {MANIFEST}, which comes last.'
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f'"{path}" is broken: {error}.') from error
        if written > FORMAT:
            settings = content.get("environment")
            writer = settings.get("clarion", "?") if isinstance(settings, dict) else "?"
            raise NewerFormatError(
                f'"{directory}" has format {written}, written by clarion {writer}; this one '
                f"({__version__}) reads up to format {FORMAT}. Install the newer clarion."
            )
        try:
            for name in ("files", "info", "environment"):
                if not isinstance(content[name], dict):
                    raise TypeError(f'"{name}" is {kind_of(content[name])} instead of a dict')
            files = {name: FileEntry(**entry) for name, entry in content["files"].items()}
            int(content["info"].get("epoch", 0))
            return cls(files, content["info"], content["environment"], written)
        except KeyError as error:
            raise CheckpointError(f'"{path}" is broken: it has no "{error.args[0]}".') from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f'"{path}" is broken: {error}.') from error

    def write(self, directory: Path) -> None:
        """Write the manifest in ``directory`` and wait until the disk has it."""
        text = json.dumps(asdict(self), indent=1)
        write_flushed(directory / MANIFEST, lambda file: file.write(text.encode()))

    def verify(self, directory: Path) -> None:
        """Check every file of the list.

        Raises:
            CheckpointError: If one is missing, or has another size or checksum; it is named.
        """
        for name, entry in self.files.items():
            path = directory / name
            try:
                _verify_file(path, entry)
            except FileNotFoundError as error:
                raise CheckpointError(f'"{path}" is missing.') from error
            except OSError as error:
                raise CheckpointError(f'"{path}" cannot be read: {error}.') from error


def environment() -> dict[str, Any]:
    """Return the versions, and the settings that change the last bits of a computation."""
    return {
        "clarion": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def _verify_file(path: Path, entry: FileEntry) -> None:
    size = path.stat().st_size
    if size != entry.size:
        raise CheckpointError(f'"{path}" is broken: it has {size} bytes instead of {entry.size}.')
    if checksum(path) != entry.crc32:
        raise CheckpointError(
            f'"{path}" is broken: its content has changed since it was written '
            "(the checksum differs)."
        )
