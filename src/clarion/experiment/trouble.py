"""Errors of the disk that a training outlives."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clarion.callbacks.base import Callback
from clarion.errors import CheckpointError, MissingFileError

__all__ = ["DiskTrouble"]


class DiskTrouble:
    """Files that could not be written: a warning while there is hope, an error at the end.

    A full disk often has room again an hour later. So a training goes on without the file, whose
    former content stays, and tries again after the next epoch. Only if the last try of a file
    fails too is the training's result not what it should be, which is an error.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Exception] = {}  # by file, and by the hook that writes

    @contextmanager
    def outlived(self, what: str, hook: str = "") -> Iterator[None]:
        """Turn an error of the disk inside into a warning, and remember it until it is mended.

        Args:
            what: What is written inside.
            hook: The hook that writes it: what another one writes does not mend it.
        """
        try:
            yield
        except MissingFileError:  # what was to be read, not written
            raise
        except (OSError, CheckpointError) as error:
            self._open[what, hook] = error
            warnings.warn(
                f"{_described(error)} The training goes on; it ends with an error if the last try "
                f"to write {what} fails too.",
                stacklevel=4,
            )
        else:
            self._open.pop((what, hook), None)

    def outlived_by(self, callback: Callback) -> Callback:
        """Return a callback that writes files, its errors of the disk outlived."""
        # Set on the object, so that it stays what it is: resuming looks callbacks up by class.
        for hook in ("on_epoch_end", "on_train_end"):
            vars(callback)[hook] = self._outliving(callback, hook)
        return callback

    def _outliving(self, callback: Callback, hook: str) -> Callable[..., None]:
        method = getattr(callback, hook)
        what = str(getattr(callback, "filename", type(callback).__name__))

        def call(*args: Any) -> None:
            with self.outlived(what, hook):
                method(*args)

        return call

    def settle(self, *mended: str) -> None:
        """Raise the error of a file whose last try has failed.

        Args:
            mended: What has been written after all.

        Raises:
            CheckpointError: If there is one.
        """
        for what in mended:
            self._open.pop((what, ""), None)
        for (what, _), error in self._open.items():
            raise CheckpointError(
                f'The training is done, but "{what}" could not be written: {_described(error)}'
            ) from error


def _described(error: Exception) -> str:
    """Return an error and its notes as sentences."""
    parts = [str(error), *getattr(error, "__notes__", ())]
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts)
