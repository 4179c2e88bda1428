"""CSV files that grow by a row at a time."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from clarion.callbacks.atomic import atomic_lambda_save
from clarion.errors import InvalidArgumentError, quoted

__all__ = [
    "AppendedRows",
    "AtomicRows",
    "ResumableRows",
    "Rows",
    "check_separator",
    "cut_rows",
    "read_rows",
    "widen_rows",
]

_StrPath = str | os.PathLike[str]


class Rows(Protocol):
    """A CSV file that is open for more rows."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row; columns that it lacks stay empty, keys that are no columns are left out."""

    def publish(self) -> None:
        """Make sure that all rows stand in the file."""

    def close(self) -> None:
        """Publish and let go of the file; a second call does nothing."""


class AppendedRows:
    """Rows that are written to the end of a file at once.

    Args:
        path: The file.
        columns: The names of the columns, for the header.
        separator: The character between two cells.
        append: Whether to keep what is in the file. The header is only written to an empty file.
        keep: How many of its rows to keep then; all if None.

    Raises:
        InvalidArgumentError: If ``append`` is given and the file lacks one of the columns.
    """

    def __init__(
        self,
        path: _StrPath,
        columns: Sequence[str],
        separator: str = ",",
        append: bool = False,
        keep: int | None = None,
    ) -> None:
        if append and keep is not None and os.path.exists(path):
            cut_rows(path, keep, separator)
        start = _Start(path, columns, separator, append)
        self._file = open(path, "a" if append else "w", newline="", encoding="utf-8")  # noqa: SIM115
        self._file.write(start.text)
        self._writer = start.writer(self._file)
        self._file.flush()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row and flush it."""
        self._writer.writerow(row)
        self._file.flush()

    def publish(self) -> None:
        """Do nothing: ``add`` has written all rows."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class AtomicRows:
    """Rows that are kept in memory until ``publish`` puts a whole new file in place.

    A reader, and whoever comes after a kill, sees the file as one ``publish`` or the next left
    it. Each ``publish`` writes the whole file, once and without reading it. Nothing is written
    before the first one, so that no row is lost where the disk has no room yet.

    Args:
        path: The file; a relative path is looked up now.
        columns: The names of the columns, for the header.
        separator: The character between two cells.
        append: Whether to keep what is in the file. The header is only written to an empty file.
        keep: How many of its rows to keep then; all if None.
        temporary_path: Where a new file is prepared: a name of its own beside ``path`` if omitted.
            On another disk than ``path`` it cannot be renamed: the file is then written directly,
            with a warning.

    Raises:
        InvalidArgumentError: If ``append`` is given and the file lacks one of the columns.
    """

    def __init__(
        self,
        path: _StrPath,
        columns: Sequence[str],
        separator: str = ",",
        append: bool = False,
        temporary_path: _StrPath | None = None,
        keep: int | None = None,
    ) -> None:
        self._path = Path(os.path.abspath(path))
        self._temporary = None if temporary_path is None else os.path.abspath(temporary_path)
        start = _Start(path, columns, separator, append)
        self._text = io.StringIO(newline="")
        if append and self._path.exists():
            self._text.write(_first_rows(path, keep, separator))
        self._text.write(start.text if self._text.tell() == 0 or keep is None else "")
        self._writer = start.writer(self._text)
        self._is_published = False

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row for the next ``publish``."""
        self._writer.writerow(row)
        self._is_published = False

    def publish(self) -> None:
        """Replace the file by one with all rows, unless it has them already."""
        if self._is_published:
            return
        atomic_lambda_save(
            self._path,
            lambda file: file.write(self._text.getvalue().encode()),
            (),
            temporary_filename=self._temporary,
            open_mode="wb",
        )
        self._is_published = True

    def close(self) -> None:
        """Publish the rows that are left."""
        self.publish()


class ResumableRows:
    """A CSV file that a resumed training goes on with where its checkpoint was written.

    Rows of what is done again are removed before the first new one: where that is, is only known
    at that row. The file of a training that begins is there at once.

    Args:
        path: The file; a relative path is looked up now.
        open_rows: Opens it: called with the path, whether to append, and how many rows to keep.
        separator: The character between two cells.
        append: Whether a training that begins goes on in an existing file.
        start: How many rows the file had when the training began that is resumed; None for one
            that begins now.

    Attributes:
        start: How many rows the file had when the training began.
    """

    def __init__(
        self,
        path: _StrPath,
        open_rows: Callable[[_StrPath, bool, int | None], Rows],
        separator: str,
        append: bool,
        start: int | None,
    ) -> None:
        self._path = os.path.abspath(path)
        self._open = open_rows
        self._separator = separator
        self._rows: Rows | None = None
        if start is not None:
            self.start = start
            return
        self.start = len(read_rows(path, separator)) if append else 0
        self._rows = open_rows(self._path, append, None)
        self._rows.publish()

    def opened(self, count_done: Callable[[list[dict[str, str]], int], int]) -> Rows:
        """Return the rows, open for the next one.

        Args:
            count_done: Called with the rows of the file and ``start``; tells how many of them come
                before the next row.
        """
        if self._rows is None:
            rows = read_rows(self._path, self._separator)
            complete = [row for row in rows if None not in row.values()]  # a kill may tear one
            self._rows = self._open(self._path, True, count_done(complete, self.start))
        return self._rows

    def publish(self) -> None:
        """Make sure that all rows stand in the file."""
        if self._rows is not None:
            self._rows.publish()

    def close(self) -> None:
        """Publish and let go of the file; a second call does nothing."""
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()


def check_separator(owner: str, separator: Any) -> None:
    """Raise unless a separator can stand between the cells of a CSV file.

    Args:
        owner: The logger, for the error.
        separator: What the user gave.

    Raises:
        InvalidArgumentError: If it is no single character, or one with another meaning there.
    """
    if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"':
        raise InvalidArgumentError(
            f"{owner}(separator={separator!r}): a single character between two cells, such as "
            '"," or "\\t"; no quotation mark, and no end of a line.'
        )


def read_rows(path: _StrPath, separator: str = ",") -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=separator))


def cut_rows(path: _StrPath, keep: int, separator: str = ",") -> None:
    """Leave the first ``keep`` rows of a CSV file and its header; the new file is put in place."""
    _put_text(path, _first_rows(path, keep, separator))


def widen_rows(
    path: _StrPath, columns: Sequence[str], more: Sequence[str], separator: str = ","
) -> None:
    """Add columns to a CSV file, empty in its rows; the new file is put in place.

    Args:
        path: The file. If there is none, or it is empty, nothing happens.
        columns: What it has to have already, else it is left alone.
        more: The columns to add, unless it has them.
        separator: The character between two cells.
    """
    lines = _lines(path, separator) if os.path.exists(path) else []
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    missing = [name for name in more if name not in header]
    if not lines or not missing or not set(columns).issubset(header):
        return
    # A row that a kill has cut stays too short, by which it is known.
    wider = [row + [""] * len(missing) * (len(row) >= len(header)) for row in rows]
    _put_text(path, _joined([header + missing, *wider], separator))


def _first_rows(path: _StrPath, keep: int | None, separator: str) -> str:
    """Return the header of a CSV file and its first ``keep`` rows; all as it stands if None."""
    if keep is None:
        return Path(path).read_bytes().decode()
    return _joined(_lines(path, separator)[: keep + 1], separator)


def _put_text(path: _StrPath, text: str) -> None:
    atomic_lambda_save(path, lambda file: file.write(text.encode()), (), open_mode="wb")


def _lines(path: _StrPath, separator: str) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [line for line in csv.reader(file, delimiter=separator) if line]


def _joined(lines: Sequence[Sequence[str]], separator: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows(lines)
    return text.getvalue()


class _Start:
    """How the writing of a file begins.

    Attributes:
        columns: The columns of all rows: those of the file, if it has some.
        text: What has to be written first: the header, or the end of a line that a kill has cut.
    """

    def __init__(
        self, path: _StrPath, columns: Sequence[str], separator: str, append: bool
    ) -> None:
        self._separator = separator
        self.columns = columns
        self.text = ""
        if not append or not os.path.exists(path) or os.path.getsize(path) == 0:
            header = io.StringIO(newline="")
            self.writer(header).writeheader()
            self.text = header.getvalue()
            return
        with open(path, newline="", encoding="utf-8") as file:
            self.columns = next(csv.reader(file, delimiter=separator))
        if missing := [name for name in columns if name not in self.columns]:
            raise InvalidArgumentError(
                f"Cannot append to {os.fspath(path)}: it has no column {quoted(missing)}; its "
                f"columns are {quoted(self.columns)}. Choose another file, or append=False to "
                "write it anew."
            )
        with open(path, "rb") as binary:
            binary.seek(-1, os.SEEK_END)
            self.text = "" if binary.read() == b"\n" else "\r\n"

    def writer(self, file: TextIO) -> "csv.DictWriter[str]":
        """Return what writes rows to a file; it leaves out what has no column."""
        return csv.DictWriter(file, self.columns, delimiter=self._separator, extrasaction="ignore")
