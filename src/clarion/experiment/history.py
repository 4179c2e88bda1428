"""The log of an experiment, read without pandas."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarion.callbacks.monitor import improves, worst
from clarion.errors import CheckpointError, MissingMonitorError, quoted, suggestion
from clarion.loggers.extras import require
from clarion.loggers.rows import cut_rows, read_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Row",
    "best_row",
    "cut_log",
    "read_frame",
    "read_log",
    "rows_of_epochs",
    "successive_bests",
]

Row = dict[str, Any]
"""A row of the log: ``epoch`` is an int, the other values floats, None where there is none."""


def read_log(path: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of the epochs in a tab separated log; none if there is no file.

    Of an epoch that was done again, the last row is returned: the files are of that one.

    Raises:
        CheckpointError: If it is no such log, or a cell is no number.
    """
    rows: dict[int, Row] = {}
    for row in _parsed(path):
        if row is not None:
            rows.pop(row["epoch"], None)
            rows[row["epoch"]] = row
    return list(rows.values())


def cut_log(path: str | os.PathLike[str], epoch: int) -> list[int]:
    """Remove the rows of the epochs after ``epoch``: those will be done again.

    Returns:
        The epochs until then that have no row.

    Raises:
        CheckpointError: If it is no such log, or a cell is no number.
    """
    rows = _parsed(path)
    beyond = [i for i, row in enumerate(rows) if row is not None and row["epoch"] > epoch]
    if beyond:
        cut_rows(path, beyond[0], "\t")
    there = {row["epoch"] for row in rows if row is not None}
    return [number for number in range(1, epoch + 1) if number not in there]


def _parsed(path: str | os.PathLike[str]) -> list[Row | None]:
    """Return the rows of the log as numbers; None for those of batches, and what a kill has torn.

    Raises:
        CheckpointError: If it is no such log, or a cell is no number.
    """
    parsed: list[Row | None] = []
    try:
        for number, cells in enumerate(read_rows(path, "\t"), start=1):
            if "epoch" not in cells:
                raise _broken(path, f'Line 1 has no column "epoch" but {quoted(cells)}')
            is_whole = cells["epoch"] and None not in cells.values()
            try:
                parsed.append(_as_numbers(cells) if is_whole else None)
            except (TypeError, ValueError) as error:
                raise _broken(path, f"Row {number} (line {number + 1}): {error}") from error
    except UnicodeDecodeError as error:
        raise _broken(path, f"Line {_first_garbled(path)} is no text: {error}") from error
    except csv.Error as error:
        raise _broken(path, f"It is no table: {error}") from error
    return parsed


def _as_numbers(cells: dict[str, str]) -> Row:
    row: Row = {name: float(text) if text else None for name, text in cells.items()}
    row["epoch"] = int(cells["epoch"])
    return row


def _first_garbled(path: str | os.PathLike[str]) -> int:
    """Return the number of the first line that is not UTF-8; the error tells a place in a block."""
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 0


def _broken(path: str | os.PathLike[str], why: str) -> CheckpointError:
    return CheckpointError(
        f'"{os.fspath(path)}" is not as a training writes it. {why}. Perhaps another program has '
        "saved it in its own way: put an earlier copy in its place, or move it away. A training "
        "goes on without it, and lacks the rows of the epochs before."
    )


def best_row(rows: Sequence[Row], metric: str, mode: str) -> Row | None:
    """Return the row with the best value, the first one of equals; None if there is no value.

    Raises:
        MissingMonitorError: If the log has no column ``metric``.
    """
    bests = successive_bests(rows, metric, mode)
    return bests[-1] if bests else None


def successive_bests(rows: Sequence[Row], metric: str, mode: str) -> list[Row]:
    """Return the rows whose value is better than in all rows before.

    Raises:
        MissingMonitorError: If the log has no column ``metric``.
    """
    bests = []
    best = worst(mode)
    for row in rows:
        if metric not in row:
            raise MissingMonitorError(
                f'The log has no column "{metric}"{suggestion(metric, list(row)) or "."} '
                f"It has: {', '.join(row)}."
            )
        if row[metric] is not None and improves(row[metric], best, mode):
            best = row[metric]
            bests.append(row)
    return bests


def read_frame(path: str | os.PathLike[str], feature: str) -> "pd.DataFrame":
    """Return a tab separated log as a DataFrame.

    Args:
        path: The file.
        feature: What needs it, for the error.

    Raises:
        MissingDependencyError: If pandas is not installed.
    """
    return require(feature, "pandas", "pandas").read_csv(path, sep="\t")


def rows_of_epochs(frame: "pd.DataFrame", epochs: Iterable[int]) -> "pd.DataFrame":
    """Return the rows of some epochs, the last one of each."""
    chosen = frame[frame["epoch"].isin(list(epochs))]
    return chosen.drop_duplicates("epoch", keep="last")
