"""CSV files that grow by a row at a time."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from clarion.callbacks.atomic import atomic_lambda_save
from clarion.errors import InvalidArgumentError, quoted

__all__ = ["AppendedRows", "AtomicRows", "Rows", "cut_rows", "read_rows", "widen_rows"]

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

    Raises:
        InvalidArgumentError: If ``append`` is given and the file lacks one of the columns.
    """

    def __init__(
        self, path: _StrPath, columns: Sequence[str], separator: str = ",", append: bool = False
    ) -> None:
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
    it. Each ``publish`` writes the whole file, once and without reading it.

    Args:
        path: The file.
        columns: The names of the columns, for the header.
        separator: The character between two cells.
        append: Whether to keep what is in the file. The header is only written to an empty file.
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
    ) -> None:
        self._path = Path(path)
        self._temporary = temporary_path
        start = _Start(path, columns, separator, append)
        self._text = io.StringIO(newline="")
        if append and self._path.exists():
            self._text.write(self._path.read_bytes().decode())
        self._text.write(start.text)
        self._writer = start.writer(self._text)
        self._is_published = False
        self.publish()

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


def read_rows(path: _StrPath, separator: str = ",") -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=separator))


def cut_rows(path: _StrPath, keep: int, separator: str = ",") -> None:
    """Leave the first ``keep`` rows of a CSV file and its header; the new file is put in place."""
    _put_lines(path, _lines(path, separator)[: keep + 1], separator)


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
    _put_lines(path, [header + missing, *wider], separator)


def _lines(path: _StrPath, separator: str) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [line for line in csv.reader(file, delimiter=separator) if line]


def _put_lines(path: _StrPath, lines: Sequence[Sequence[str]], separator: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows(lines)
    atomic_lambda_save(path, lambda file: file.write(text.getvalue().encode()), (), open_mode="wb")


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
