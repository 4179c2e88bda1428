"""What the directory of an experiment tells about its training."""

import os
import warnings
from typing import TYPE_CHECKING, Any

from clarion.callbacks.monitor import improves
from clarion.checkpoints.apply import apply_weights
from clarion.checkpoints.weights import load_state
from clarion.console import say
from clarion.errors import InvalidArgumentError, MissingFileError, quoted, suggestion
from clarion.experiment.directory import ExperimentDirectory
from clarion.experiment.history import (
    Row,
    best_row,
    read_frame,
    read_log,
    rows_of_epochs,
    successive_bests,
)
from clarion.loggers.extras import require
from clarion.model import Model

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Records"]


class Records(ExperimentDirectory):
    """The log and the checkpoints of an experiment, read.

    Attributes:
        model: The model.
        logging: Whether the experiment has a directory.
        monitoring: Whether it watches which epoch is best.
        monitor_metric: The key of the epoch logs that it watches; None if it does not.
        monitor_mode: ``"min"`` or ``"max"``; None if it does not.
        interrupted: The name of the signal after which the last training returned, to be gone on
            with by the same call; None if it came to its end.
    """

    model: Model
    logging: bool
    monitoring: bool
    monitor_metric: str | None
    monitor_mode: str | None
    interrupted: str | None

    def load_checkpoint(
        self,
        checkpoint: int | str | os.PathLike[str],
        *,
        verbose: bool = False,
        strict: bool = True,
    ) -> "pd.DataFrame | None":
        """Load weights that the training saved, and return the row of the log that belongs to them.

        Args:
            checkpoint: ``"best"``, ``"last"``, the number of an epoch, or the path of a file with
                a ``state_dict``.
            verbose: Whether to say which file is loaded, and the results of its epoch.
            strict: Whether every name and shape has to fit; if not, names that do not are warned
                of.

        Returns:
            A DataFrame with one row; None for a path.

        Raises:
            MissingDependencyError: If pandas is not installed and a row is to be returned.
            InvalidArgumentError: If there is no log, no such epoch, or nothing was watched.
            MissingFileError: If there is no such file.
            CheckpointError: If the file cannot be read safely or does not fit the network.
        """
        if _is_path(checkpoint):
            self._load_checkpoint(checkpoint, verbose=verbose, strict=strict)
            return None
        require("load_checkpoint", "pandas", "pandas")
        row = self._load_checkpoint(checkpoint, verbose=verbose, strict=strict)
        return rows_of_epochs(self.get_stats(), [] if row is None else [row["epoch"]])

    def get_stats(self) -> "pd.DataFrame":
        """Return the log: a row per epoch.

        Raises:
            MissingDependencyError: If pandas is not installed.
            InvalidArgumentError: If there is no log.
        """
        self._rows()
        return read_frame(self.log_filename, "get_stats")

    def get_best_epoch_stats(self) -> "pd.DataFrame":
        """Return the row of the best epoch, the first one of equals, as a DataFrame.

        Raises:
            MissingDependencyError: If pandas is not installed.
            InvalidArgumentError: If there is no log, or nothing was watched.
        """
        return rows_of_epochs(self.get_stats(), [self._best_row()["epoch"]])

    def get_saved_epochs(self) -> "pd.DataFrame":
        """Return the rows of the epochs that were better than all before, as a DataFrame.

        Raises:
            MissingDependencyError: If pandas is not installed.
            InvalidArgumentError: If there is no log, or nothing was watched.
        """
        metric, mode = self._monitor("no epoch but the last was saved")
        bests = successive_bests(self._rows(), metric, mode)
        return rows_of_epochs(self.get_stats(), [row["epoch"] for row in bests])

    def is_better_than(self, another_model_bundle: "Records") -> bool:
        """Return whether this experiment's best epoch is better than the other's.

        Both logs are read; no weights are touched.

        Args:
            another_model_bundle: The other experiment.

        Raises:
            InvalidArgumentError: If one of them has no log, or they do not watch the same.
        """
        other = another_model_bundle
        for bundle in (self, other):
            if not bundle.logging:
                raise InvalidArgumentError(
                    f'The experiment "{bundle.directory}" was built with logging=False, so it has '
                    "no results to compare."
                )
        metric, mode = self._monitor("there is nothing to compare")
        if (other.monitor_metric, other.monitor_mode) != (metric, mode):
            raise InvalidArgumentError(
                f'These experiments cannot be compared: "{self.directory}" watches {metric} '
                f'({mode}) and "{other.directory}" watches {other.monitor_metric} '
                f"({other.monitor_mode}). Build both with the same monitor_metric and monitor_mode."
            )
        return improves(self._best_row()[metric], other._best_row()[metric], mode)

    def _load_checkpoint(self, checkpoint: Any, *, verbose: bool, strict: bool) -> Row | None:
        """Do what ``load_checkpoint`` does, and return the row as a dict, without pandas."""
        if _is_path(checkpoint):
            self._load_file(checkpoint, verbose, strict)
            return None
        if checkpoint == "best":
            row: Row | None = self._best_row()
        elif checkpoint == "last":
            row = self._rows()[-1]
        else:
            row = next((row for row in self._rows() if row["epoch"] == checkpoint), None)
        if verbose and row is not None and checkpoint == "best":
            say(f"Found best checkpoint at epoch: {row['epoch']:d}")
            say(_described(row))
        self._load_file(self._file_of(checkpoint, row), verbose, strict)
        if verbose and row is not None and checkpoint != "best":
            say(_described(row))
        return row

    def _file_of(self, checkpoint: int | str, row: Row | None) -> str:
        if checkpoint == "last":
            return self.model_checkpoint_filename
        epoch = int(row["epoch"] if row is not None else checkpoint)
        path = self.best_checkpoint_of(epoch)
        if os.path.exists(path):
            return path
        saved = ", ".join(map(str, self.saved_epochs()))
        raise InvalidArgumentError(
            f'There are no weights of epoch {epoch} in "{self.directory}". '
            + (f"There are those of epoch {saved}, and of the last one " if saved else "There are ")
            + ('("last").' if saved else 'only those of the last epoch ("last").')
            + " save_every_epoch=True in train keeps them all."
        )

    def _load_file(self, path: str | os.PathLike[str], verbose: bool, strict: bool) -> None:
        name = os.fspath(path)
        if verbose:
            say(f"Loading checkpoint {name}")
        if not os.path.exists(name) and (hint := suggestion(name, ("best", "last"))):
            raise MissingFileError(f'There is no checkpoint "{name}"{hint}')
        result = apply_weights(self.model.network, load_state(path), strict=strict, source=name)
        if result.unexpected_keys:
            warnings.warn(f"Unexpected key(s): {quoted(result.unexpected_keys)}.", stacklevel=4)
        if result.missing_keys:
            warnings.warn(f"Missing key(s): {quoted(result.missing_keys)}.", stacklevel=4)

    def _rows(self) -> list[Row]:
        """Return the rows of the log, of which there is at least one."""
        rows = read_log(self.log_filename)
        if not rows:
            raise InvalidArgumentError(
                f'"{self.log_filename}" holds no epoch: train first, with logging=True.'
            )
        return rows

    def _best_row(self) -> Row:
        metric, mode = self._monitor("no epoch is known to be the best")
        row = best_row(self._rows(), metric, mode)
        if row is None:
            raise InvalidArgumentError(
                f'"{self.log_filename}" has no value of "{metric}", so no epoch is the best.'
            )
        return row

    def _monitor(self, consequence: str) -> tuple[str, str]:
        if self.monitor_metric is None or self.monitor_mode is None:
            raise InvalidArgumentError(
                f"The experiment was built with monitoring=False: {consequence}. "
                'The last epoch can be had by "last".'
            )
        return self.monitor_metric, self.monitor_mode


def _is_path(checkpoint: object) -> bool:
    return isinstance(checkpoint, str | os.PathLike) and checkpoint not in ("best", "last")


def _described(row: Row) -> str:
    """Return the results of an epoch as text, without its number and its time."""
    results = [(name, value) for name, value in row.items() if name not in ("epoch", "time")]
    return ", ".join(f"{name}: {value:g}" for name, value in results if value is not None)
