"""Save something every few epochs, or when it is the best so far."""

import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Formatter
from typing import IO, Any, TypedDict, Unpack

from clarion.arguments import checked_arguments
from clarion.callbacks.atomic import atomic_lambda_save, make_directory, open_file
from clarion.callbacks.memory import RememberingCallback
from clarion.callbacks.monitor import check_mode, check_watchable, improves, watched, worst
from clarion.console import is_first_rank, say
from clarion.errors import (
    InvalidArgumentError,
    MissingFileError,
    UnknownNameError,
    suggestion,
)

__all__ = ["PeriodicSaveCallback", "PeriodicSaveLambda", "SaveOptions", "literally"]


class SaveOptions(TypedDict, total=False):
    """The arguments of ``PeriodicSaveCallback`` after ``filename``, for those that pass them on."""

    monitor: str
    mode: str
    save_best_only: bool
    keep_only_last_best: bool
    restore_best: bool
    period: int
    verbose: bool
    temporary_filename: str | os.PathLike[str] | None
    atomic_write: bool
    open_mode: str
    read_mode: str


class PeriodicSaveCallback(RememberingCallback):
    """Writes a file at the end of an epoch: every few epochs, or whenever it is the best.

    Subclasses say in ``save_file`` and ``restore`` what the file holds. With several ranks the
    first one writes.

    Args:
        filename: The file. Keys of the epoch logs may stand in braces, for example
            ``"w.{epoch:02d}-{val_loss:.2f}.ckpt"``, in the names of directories too; a brace that
            is meant is doubled, ``"{{"``. Missing directories are made.
        monitor: The key of the epoch logs that decides what is best.
        mode: ``"min"`` if less is better, ``"max"`` if more is.
        save_best_only: Whether to write only when ``monitor`` is better than ever before.
        keep_only_last_best: Whether to remove the best file before, if it has another name.
        restore_best: Whether to call ``restore`` with the best file when the training ends.
        period: Write when the number of the epoch is a multiple; without ``save_best_only`` only.
        verbose: Whether to print a line at each file.
        temporary_filename: Where to write first; a name of its own beside the file if omitted.
        atomic_write: Whether to keep the old file until the new one is whole.
        open_mode: How the file is opened for ``save_file``; text is UTF-8. Appending needs
            ``atomic_write=False``.
        read_mode: How it is opened for ``restore``.

    Attributes:
        best_filename: The best file so far; None before the first.
        current_best: The value of ``monitor`` that belongs to it.

    Raises:
        InvalidArgumentError: If ``keep_only_last_best`` or ``restore_best`` is asked for without
            ``save_best_only``, if ``mode`` is not known, ``period`` less than 1, a brace in
            ``filename`` holds no key, or a file that is replaced as a whole is to be appended to.
    """

    @checked_arguments
    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        monitor: str = "val_loss",
        mode: str = "min",
        save_best_only: bool = False,
        keep_only_last_best: bool = False,
        restore_best: bool = False,
        period: int = 1,
        verbose: bool = False,
        temporary_filename: str | os.PathLike[str] | None = None,
        atomic_write: bool = True,
        open_mode: str = "wb",
        read_mode: str = "rb",
    ) -> None:
        _check_options(
            type(self).__name__, mode, save_best_only, keep_only_last_best, restore_best, period
        )
        if atomic_write and "a" in open_mode:
            raise InvalidArgumentError(
                f'{type(self).__name__}(open_mode="{open_mode}", atomic_write=True): each write '
                "puts a new file in the place of the old one, of which nothing would stay. Pass "
                'atomic_write=False to append, or open_mode="w" to write the whole file each time.'
            )
        self.filename = os.fspath(filename)
        _check_keys_of(type(self).__name__, self.filename)
        self.monitor = monitor
        self.mode = mode
        self.save_best_only = save_best_only
        self.keep_only_last_best = keep_only_last_best
        self.restore_best = restore_best
        self.period = period
        self.verbose = verbose
        self.temporary_filename = temporary_filename
        self.atomic_write = atomic_write
        self.open_mode = open_mode
        self.read_mode = read_mode
        self.best_filename: str | None = None
        self.current_best = worst(mode)

    @abstractmethod
    def save_file(self, fd: IO[Any], epoch_number: int, logs: dict[str, Any]) -> None:
        """Write to the open file ``fd``."""

    @abstractmethod
    def restore(self, fd: IO[Any]) -> None:
        """Take back what the open file ``fd`` holds."""

    def fresh_memory(self) -> dict[str, Any]:
        """Return the memory before a training: no best file, no best value."""
        return {"best_filename": None, "current_best": worst(self.mode)}

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Forget the training before, unless this one resumes; make the file's directory.

        Raises:
            MissingMonitorError: If it is certain that the logs will not hold ``monitor``.
            MissingFileError: If the directory cannot be made.
        """
        super().on_train_begin(logs)
        if self.save_best_only:
            check_watchable(self)
        if is_first_rank():
            before_keys = Path(self.filename.partition("{")[0] + "_")
            asker = f'{type(self).__name__}(filename="{self.filename}")'
            make_directory(before_keys.parent, asker)

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Write the file if it is time, or if the epoch is the best so far.

        Raises:
            MissingMonitorError: If ``logs`` does not hold ``monitor`` and it is needed.
            UnknownNameError: If the file's name has a key that ``logs`` does not hold.
            InvalidArgumentError: If it asks for a form that a value cannot have.
        """
        if self.save_best_only:
            self._save_if_best(epoch_number, logs)
        elif epoch_number % self.period == 0:
            self._save(f"Epoch {epoch_number}: ", epoch_number, logs)

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Restore the best file, if ``restore_best`` says so; warn if there is none.

        Raises:
            MissingFileError: If somebody has removed it.
        """
        if not self.restore_best:
            return
        if self.best_filename is None:
            warnings.warn("No data to restore!", stacklevel=2)
            return
        if self.verbose:
            say(f"Restoring data from {self.best_filename}")
        try:
            fd = open_file(self.best_filename, self.read_mode)
        except FileNotFoundError as error:
            raise MissingFileError(
                f"{type(self).__name__} saved its best file as "
                f'"{self.best_filename}", and it is no longer there: nothing was restored.'
            ) from error
        with fd:
            self.restore(fd)

    def _save_if_best(self, epoch_number: int, logs: dict[str, Any]) -> None:
        current = watched(self, logs, epoch_number)
        if not improves(current, self.current_best, self.mode):
            return
        former = self.best_filename
        progress = f"{self.monitor} improved from {self.current_best:0.5f} to {current:0.5f}, "
        filename = self._save(f"Epoch {epoch_number}: {progress}", epoch_number, logs)
        self.current_best = current
        self.best_filename = filename
        if self.keep_only_last_best and former not in (None, filename) and is_first_rank():
            Path(str(former)).unlink(missing_ok=True)

    def _save(self, message: str, epoch_number: int, logs: dict[str, Any]) -> str:
        """Write the file and return its name."""
        filename = self._name(epoch_number, logs)
        if self.verbose:
            say(f"{message}saving file to {filename}")
        if not is_first_rank():  # what save_file gathers from all ranks needs all of them
            with open_file(os.devnull, self.open_mode) as fd:
                self.save_file(fd, epoch_number, logs)
            return filename
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        atomic_lambda_save(
            filename,
            self.save_file,
            (epoch_number, logs),
            temporary_filename=self.temporary_filename,
            open_mode=self.open_mode,
            atomic=self.atomic_write,
        )
        return filename

    def _name(self, epoch_number: int, logs: dict[str, Any]) -> str:
        try:
            return self.filename.format_map(logs)
        except KeyError as error:
            key = str(error.args[0])
            raise UnknownNameError(
                f'{type(self).__name__}(filename="{self.filename}"): no key "{key}" at the end of '
                f"epoch {epoch_number}{suggestion(key, list(logs)) or '.'} "
                f"The logs hold: {', '.join(logs)}."
            ) from error
        except ValueError as error:
            raise InvalidArgumentError(
                f'{type(self).__name__}(filename="{self.filename}"): {error}, at the end of epoch '
                f"{epoch_number}. The logs hold: {dict(logs)}."
            ) from error


class PeriodicSaveLambda(PeriodicSaveCallback):
    """Saves with a function.

    Args:
        func: Called as ``func(fd, epoch_number, logs)`` with the open file.
        filename: See ``PeriodicSaveCallback``.
        restore: Called as ``restore(fd)`` with the best file when the training ends; needed for
            ``restore_best``.
        **options: See ``PeriodicSaveCallback``.

    Raises:
        InvalidArgumentError: As there, and if ``restore_best`` is asked for without ``restore``.
    """

    @checked_arguments
    def __init__(
        self,
        func: Callable[[IO[Any], int, dict[str, Any]], Any],
        filename: str | os.PathLike[str],
        *,
        restore: Callable[[IO[Any]], Any] | None = None,
        **options: Unpack[SaveOptions],
    ) -> None:
        super().__init__(filename, **options)
        if self.restore_best and restore is None:
            raise InvalidArgumentError(
                "PeriodicSaveLambda(restore_best=True) needs restore=, a function that reads the "
                "open file."
            )
        self._func = func
        self._restore = restore

    def save_file(self, fd: IO[Any], epoch_number: int, logs: dict[str, Any]) -> None:
        """Call ``func``."""
        self._func(fd, epoch_number, logs)

    def restore(self, fd: IO[Any]) -> None:
        """Call ``restore``, if there is one."""
        if self._restore is not None:
            self._restore(fd)


def literally(path: str) -> str:
    """Return the ``filename`` that stands for a path whose braces are meant."""
    return path.replace("{", "{{").replace("}", "}}")


def _check_keys_of(owner: str, filename: str) -> None:
    """Raise if a name cannot be filled in whatever the logs hold, before an epoch is trained."""
    remedy = "Write a key of the epoch logs into the braces, as in {epoch}, or double them."
    try:
        keys = [key for _, key, _, _ in Formatter().parse(filename) if key is not None]
    except ValueError as error:
        raise InvalidArgumentError(f'{owner}(filename="{filename}"): {error}. {remedy}') from error
    if any(not key or key.isdigit() for key in keys):
        raise InvalidArgumentError(
            f'{owner}(filename="{filename}"): braces without a key. {remedy}'
        )


def _check_options(
    owner: str, mode: str, best_only: bool, keep_last: bool, restore: bool, period: int
) -> None:
    if best_only:
        check_mode(owner, mode)
    elif keep_last or restore:
        name = "keep_only_last_best" if keep_last else "restore_best"
        raise InvalidArgumentError(
            f"{owner}({name}=True) needs save_best_only=True: otherwise no file is known to be "
            "the best."
        )
    if period < 1:
        raise InvalidArgumentError(f"{owner}(period={period}): a number of epochs, at least 1.")
