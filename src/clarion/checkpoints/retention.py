"""Which checkpoints of epochs stay, besides the last one."""

import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.arguments import check_whole_number
from clarion.checkpoints.files import flush_directory
from clarion.checkpoints.manifest import Manifest
from clarion.checkpoints.writer import previous_of, remove, take_place
from clarion.errors import CheckpointError

__all__ = ["BEST", "Retention", "kept_beside"]

BEST = "best"
_EPOCH = re.compile(r"epoch-(\d+)")


@dataclass(frozen=True)
class Retention:
    """Keeps the checkpoints of the newest epochs and of the best ones, beside the last one.

    The best stands in ``best``, others in ``epoch-<n>``. They are links to the files of the last
    checkpoint where the file system has links, so that they take no time, and no room as long as
    it stands. What is to stay follows from the manifests alone: nothing has to be remembered.

    Args:
        newest: How many of the newest epochs stay, the last one included.
        best: How many of the best epochs stay, where the manifests tell a score; the best one
            always does. An epoch whose score is nan or infinite is none of them, and removes none.

    Raises:
        InvalidArgumentError: If a number is less than 1.
    """

    newest: int = 1
    best: int = 1

    def __post_init__(self) -> None:
        check_whole_number("keep", self.newest, 1)
        check_whole_number("keep_best", self.best, 1)

    def apply(self, last: Path, manifest: Manifest) -> None:
        """Keep a checkpoint that was just written, and remove those that need not stay any more.

        Args:
            last: Where it stands.
            manifest: Its manifest; one that was not written at the end of an epoch is left alone.
        """
        info = manifest.info
        if info.get("reason") != "epoch":
            return
        best = last.with_name(BEST)
        if _is_better(info, _info_of(best)):
            _link(last, best)
        if self.newest > 1 or self.best > 1:
            _link(last, last.with_name(f"epoch-{info['epoch']}"))
        staying = self._staying(info, {path: _info_of(path) for path in _epochs(last.parent)})
        for path in _epochs(last.parent):
            if path not in staying:
                remove(path)

    def _staying(self, info: dict[str, Any], found: dict[Path, dict[str, Any]]) -> list[Path]:
        """Return the directories of epochs that stay; one alone of a kind has its slot already."""
        newest = list(found)[-self.newest :] if self.newest > 1 else []
        scored = [
            path for path in found if _is_alike(info, found[path]) and _has_score(found[path])
        ]
        scored.sort(key=lambda path: found[path]["score"], reverse=info.get("mode") == "max")
        return newest + (scored[: self.best] if self.best > 1 else [])


def kept_beside(last: Path) -> list[Path]:
    """Return the directories of other checkpoints that are kept, of the newest epoch first."""
    found = [last.with_name(BEST), *_epochs(last.parent)]
    epochs = {path: int(_info_of(path).get("epoch", 0)) for path in found}
    kept = [path for path in found if epochs[path]]
    return sorted(kept, key=lambda path: epochs[path], reverse=True)


def _epochs(directory: Path) -> list[Path]:
    """Return the directories of epochs, in their order."""
    paths = directory.iterdir() if directory.is_dir() else ()
    numbers = {path: int(found[1]) for path in paths if (found := _EPOCH.fullmatch(path.name))}
    return sorted(numbers, key=lambda path: numbers[path])


def _info_of(directory: Path) -> dict[str, Any]:
    """Return what a checkpoint's manifest tells; nothing if there is none that can be read."""
    try:
        return Manifest.read(directory).info
    except CheckpointError:
        return {}


def _is_alike(info: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether scores of both are of the same kind."""
    return all(info.get(name) == other.get(name) for name in ("monitor", "mode"))


def _has_score(info: dict[str, Any]) -> bool:
    score = info.get("score")
    return score is not None and math.isfinite(score)


def _is_better(info: dict[str, Any], best: dict[str, Any]) -> bool:
    if not _has_score(info):
        return False
    if not _is_alike(info, best) or not _has_score(best) or best.get("epoch") == info["epoch"]:
        return True
    new, old = info["score"], best["score"]
    return bool(new > old if info["mode"] == "max" else new < old)


def _link(source: Path, target: Path) -> None:
    """Put a checkpoint with the same files in another place, in one go."""
    aside = target.with_name(f"{target.name}.tmp")
    remove(aside)
    aside.mkdir()
    for path in source.iterdir():
        try:
            os.link(path, aside / path.name)
        except OSError:  # no links here
            shutil.copy2(path, aside / path.name)
            with open(aside / path.name, "rb+") as file:
                os.fsync(file.fileno())
    flush_directory(aside)
    take_place(aside, target)
    remove(previous_of(target))
