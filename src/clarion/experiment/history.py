"""The log of an experiment, read without pandas."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from clarion.callbacks.monitor import improves, worst
from clarion.errors import CheckpointError, MissingMonitorError, suggestion
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
        CheckpointError: If a cell is no number.
    """
    rows: dict[int, Row] = {}
    for number, cells in enumerate(read_rows(path, "\t"), start=1):
        if not cells.get("epoch"):
            continue  # the row of a batch
        try:
            row: Row = {name: float(text) if text else None for name, text in cells.items()}
            row["epoch"] = int(cells["epoch"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f'Row {number} of "{path}" is broken: {error}.') from error
        rows.pop(row["epoch"], None)
        rows[row["epoch"]] = row
    return list(rows.values())


def cut_log(path: str | os.PathLike[str], epoch: int) -> None:
    """Remove the rows of the epochs after ``epoch``: those will be done again."""
    rows = read_rows(path, "\t")
    beyond = [i for i, row in enumerate(rows) if row.get("epoch") and int(row["epoch"]) > epoch]
    if beyond:
        cut_rows(path, beyond[0], "\t")


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
