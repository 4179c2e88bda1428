"""Loggers that write the results of a training into a CSV file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clarion.callbacks.atomic import make_directory
from clarion.callbacks.memory import check_keys
from clarion.loggers.base import Logger
from clarion.loggers.rows import (
    AppendedRows,
    AtomicRows,
    ResumableRows,
    Rows,
    check_separator,
    widen_rows,
)

__all__ = ["AtomicCSVLogger", "CSVLogger"]


class _RowLogger(Logger):
    """A logger of rows: what its two children have in common.

    When a training resumes, the file goes on where the checkpoint was written: rows of what is
    done again are removed before the first new one. Where that is, is only known at that row.
    """

    _rows: ResumableRows | None = None
    _start = 0
    _resumed = False  # a state was loaded since the last training

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        batch_granularity: bool,
        separator: str,
        append: bool,
    ) -> None:
        super().__init__(batch_granularity=batch_granularity)
        check_separator(type(self).__name__, separator)
        self.filename = filename
        self.separator = separator
        self.append = append

    def state_dict(self) -> dict[str, Any]:
        """Return how many rows the file had when the training began."""
        return {"start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the file of the training that is resumed."""
        check_keys(self, state, ["start"])
        self._start = state["start"]
        self._resumed = True

    def _open(self, path: str | os.PathLike[str], append: bool, keep: int | None) -> Rows:
        raise NotImplementedError

    def _on_train_begin_write(self, logs: Mapping[str, Any]) -> None:
        self._close()
        asker = f'{type(self).__name__}(filename="{os.fspath(self.filename)}")'
        make_directory(Path(self.filename).parent, asker)
        start = self._start if self._resumed else None
        self._resumed = False
        self._rows = ResumableRows(self.filename, self._widened, self.separator, self.append, start)
        self._start = self._rows.start

    def _on_train_batch_end_write(self, batch_number: int, logs: dict[str, Any]) -> None:
        self._opened(batch_number).add(logs)

    def _on_epoch_end_write(self, epoch_number: int, logs: dict[str, Any]) -> None:
        rows = self._opened(None)
        rows.add({**logs, **self._get_current_learning_rates()})
        rows.publish()

    def _close(self) -> None:
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()

    def _opened(self, batch_number: int | None) -> Rows:
        assert self._rows is not None
        return self._rows.opened(
            lambda rows, start: _rows_before(rows, start, self.epoch_number, batch_number)
        )

    def _widened(self, path: str | os.PathLike[str], append: bool, keep: int | None) -> Rows:
        """Open the file; one to go on in gets the columns of validation sets that are new."""
        if append:
            sets = self._columns_of_sets()
            others = [name for name in self.fieldnames if name not in sets]
            widen_rows(path, others, sets, self.separator)
        return self._open(path, append, keep)


class CSVLogger(_RowLogger):
    """Write a row per epoch, and per train batch if wanted, to the end of a CSV file.

    The columns are those of `Logger`. Each row is in the file when the hook returns. The rows of
    batches leave ``epoch`` and the learning rates empty, those of epochs ``batch`` and ``size``.

    Args:
        filename: The file. Missing directories are made.
        batch_granularity: Whether to write a row per train batch too.
        separator: The character between two cells.
        append: Whether to go on in an existing file, whose header stays; else it is overwritten.

    Raises:
        InvalidArgumentError: If ``separator`` is no single character; when the training begins,
            if ``append`` is given and the file lacks a column other than those of validation sets
            with names, which are added to it.
        MissingFileError: When the training begins, if the file's directory cannot be made.

    Example:
        >>> logger = CSVLogger("log.csv", batch_granularity=True)
        >>> logger.filename
        'log.csv'
    """

    only_watches = True

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        batch_granularity: bool = False,
        separator: str = ",",
        append: bool = False,
    ) -> None:
        super().__init__(
            filename, batch_granularity=batch_granularity, separator=separator, append=append
        )

    def _open(self, path: str | os.PathLike[str], append: bool, keep: int | None) -> Rows:
        return AppendedRows(path, self.fieldnames, self.separator, append, keep)


class AtomicCSVLogger(_RowLogger):
    """Write the rows of `CSVLogger` so that a kill at any moment leaves a whole file.

    The rows are kept in memory; at the end of each epoch, of the training, and at an error, they
    are written to a temporary file, which takes the place of the old one. Rows of batches are
    therefore in the file from the end of their epoch on.

    Args:
        filename: The file. Missing directories are made.
        batch_granularity: Whether to write a row per train batch too.
        separator: The character between two cells.
        append: Whether to go on in an existing file, whose header stays; else it is overwritten.
        temporary_filename: The temporary file, on the same file system; a name of its own beside
            ``filename`` if omitted.

    Raises:
        InvalidArgumentError: If ``separator`` is no single character; when the training begins,
            if ``append`` is given and the file lacks a column other than those of validation sets
            with names, which are added to it.
        MissingFileError: When the training begins, if the file's directory cannot be made.
    """

    only_watches = True

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        batch_granularity: bool = False,
        separator: str = ",",
        append: bool = False,
        temporary_filename: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            filename, batch_granularity=batch_granularity, separator=separator, append=append
        )
        self.temporary_filename = temporary_filename

    def _open(self, path: str | os.PathLike[str], append: bool, keep: int | None) -> Rows:
        temporary = self.temporary_filename
        return AtomicRows(path, self.fieldnames, self.separator, append, temporary, keep)


def _rows_before(
    rows: list[dict[str, str]], start: int, epoch_number: int, batch_number: int | None
) -> int:
    """Return how many rows come before a train batch, or before the row of its epoch if None.

    The rows of an epoch's batches stand before the epoch's own, which alone has an ``epoch``.
    """
    keep = start
    for position in range(len(rows) - 1, start - 1, -1):
        if rows[position]["epoch"] and float(rows[position]["epoch"]) < epoch_number:
            keep = position + 1
            break
    for row in rows[keep:]:
        if row["epoch"] or (batch_number is not None and float(row["batch"]) >= batch_number):
            break
        keep += 1
    return keep
