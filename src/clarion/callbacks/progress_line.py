"""The lines that show how far a run is, and how they replace each other on the screen."""

from collections.abc import Mapping
from typing import Any

from clarion import console
from clarion.callbacks.color import EmptyStringAttrClass, Line, cut, paint, palette, text_width
from clarion.callbacks.progress_bar import ProgressBar

__all__ = ["ColorProgress", "format_duration", "format_value"]

_BAR_LENGTH = 20
_NARROW = ((15, True), (10, True), (5, True), (10, False), (5, False))
"""What to try when the bar is too long: its length, and whether it has a percentage."""
_ROOM_FOR_BAR = 60
_ERASE = "\r\033[K"
_LARGEST_PLAIN = 1e9
_SMALLEST_PLAIN = 1e-4  # below, six decimals show fewer than three digits of the number


def format_duration(seconds: float) -> str:
    """Return a duration as ``[[{d}d]{h}h]{m}m{s:.2f}s``.

    Example:
        >>> format_duration(3.14159), format_duration(3725.5), format_duration(86400)
        ('3.14s', '1h2m5.50s', '1d0h0m0.00s')
    """
    hundredths = round(100 * max(0.0, seconds))
    minutes, hundredths = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hundredths / 100:.2f}s"
    if days or hours or minutes:
        text = f"{minutes}m{text}"
    if days or hours:
        text = f"{hours}h{text}"
    return f"{days}d{text}" if days else text


def format_value(value: Any) -> str:
    """Return a number with six decimals, or as a power of ten where these would hide it.

    Example:
        >>> format_value(0.25), format_value(1.234e-7), format_value(float("nan"))
        ('0.250000', '1.234e-07', 'nan')
    """
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # torch: several values in one tensor
        return " ".join(str(value).split())
    readable = number == 0 or _SMALLEST_PLAIN <= abs(number) < _LARGEST_PLAIN
    return f"{number:f}" if readable else f"{number:.3e}"


class ColorProgress:
    """Shows one line at a time: that of a step, which the next one replaces, or a final one.

    How depends on what standard output is. On a terminal the line of a step is as wide as the
    terminal at most: the bar shrinks first, then the last values are left out. In a file each
    line is plain text of its own. In a notebook, or an object in memory, a line is padded with
    blanks to cover the one before it.

    Args:
        coloring: See ``ProgressionCallback``.

    Attributes:
        kind: What standard output was when ``look`` was called last.
    """

    _format_duration = staticmethod(format_duration)  # its name in Poutyne's tests

    def __init__(self, coloring: bool | Mapping[str, str] | None = True) -> None:
        self.kind: console.StreamKind = "other"
        self._colors = palette(coloring)
        self._epoch: Line = []
        self._shown_width = 0
        self._bar_style: dict[str, Any] = {}

    def look(self) -> None:
        """Find out what standard output is now."""
        kind = console.stream_kind()
        self.kind = "file" if kind == "terminal" and not console.supports_ansi() else kind
        blocks = self.kind != "terminal" or console.shows("█▏")
        self._bar_style = {} if blocks else {"bar_character": "#", "partial_bar_characters": ()}

    def set_epoch(self, number: int | None = None, epochs: int | None = None) -> None:
        """Set what the lines begin with: an epoch, or nothing."""
        self._epoch = []
        if number is not None:
            ratio = f"{number:{len(str(epochs))}d}/{epochs} "
            self._epoch = [("text_color", "Epoch: "), ("ratio_color", ratio)]

    def show_step(
        self,
        number: int,
        steps: int | None,
        seconds: float,
        values: Mapping[str, Any],
        *,
        bar: bool = True,
    ) -> None:
        """Show the line of one step in place of the one before it.

        Args:
            number: The number of the step, from 1.
            steps: How many there will be, if known.
            seconds: The time left if ``steps`` is known, else the time that a step takes.
            values: What to show, by name.
            bar: Whether to show a bar; it needs ``steps``.
        """
        head = [*self._epoch, ("text_color", "Step: ")]
        if steps is None:
            head += [("ratio_color", f"{number} ")]
            time = [("time_color", f"{format_duration(seconds)}/step ")]
        else:
            head += [("ratio_color", f"{number:{len(str(steps))}d}/{steps} ")]
            time = [("text_color", "ETA: "), ("time_color", f"{format_duration(seconds)} ")]
        pieces = _pieces(values)
        bars: list[Line] = [[]]
        if bar and steps is not None and self.kind != "file":
            bars = [self._bar(number, steps, _BAR_LENGTH)]
            if self.kind == "terminal":
                bars += [self._bar(number, steps, *narrow) for narrow in _NARROW]
        if self.kind == "terminal":
            line = _fit(head, [*bars, []], time, pieces, console.columns() - 1)
        else:
            line = [*head, *bars[0], *time, *_joined(pieces)]
        self._put(line)

    def show_end(
        self, counts: Mapping[str, int | None], seconds: float, values: Mapping[str, Any]
    ) -> None:
        """Show the final line of an epoch, an evaluation or a prediction.

        Args:
            counts: How many steps were done, by label; one that is ``None`` is left out.
            seconds: How long it took.
            values: What to show, by name.
        """
        line = list(self._epoch)
        for label, count in counts.items():
            if count is not None:
                line += [("text_color", f"{label}: "), ("ratio_color", f"{count} ")]
        line += [("time_color", f"{format_duration(seconds)} "), *_joined(_pieces(values))]
        part, last = line[-1]
        self._put([*line[:-1], (part, last.rstrip())], end=True)

    def _bar(self, number: int, steps: int, length: int, percentage: bool = True) -> Line:
        bar = ProgressBar(steps, bar_length=length, **self._bar_style)
        bar.update(number)
        return [
            ("text_color", f"{bar.percentage} |" if percentage else "|"),
            ("progress_bar_color", bar.progress_bar_formatting()),
            ("text_color", "|"),
        ]

    def _put(self, line: Line, end: bool = False) -> None:
        newline = "\n" if end else ""
        if self.kind == "file":
            console.write(f"{paint(line, EmptyStringAttrClass()).rstrip()}\n")
        elif self.kind == "terminal":
            console.write(f"{_ERASE}{paint(line, self._colors)}{newline}")
        else:
            width = _width(line)
            padding = " " * (self._shown_width - width)
            self._shown_width = 0 if end else width
            console.write(f"\r{paint(line, self._colors)}{padding}{newline}")


def _pieces(values: Mapping[str, Any]) -> list[Line]:
    """Return for each value its name and its number."""
    return [
        [("text_color", f"{name}:"), ("metric_value_color", f" {format_value(value)}")]
        for name, value in values.items()
    ]


def _joined(pieces: list[Line]) -> Line:
    line: Line = []
    for piece in pieces:
        (part, name), *rest = piece
        line += [(part, f" {name}" if line else name), *rest]
    return line


def _fit(head: Line, bars: list[Line], time: Line, pieces: list[Line], room: int) -> Line:
    """Return the line with the longest bar, else with as many values, as there is room for.

    The bars come in order, the last one empty.
    """
    for bar in bars:
        line = [*head, *bar, *time, *_joined(pieces)]
        if _width(line) <= room:
            return line
    bar = bars[-2:][0] if room >= _ROOM_FOR_BAR else []
    more: Line = [("text_color", "...")]
    while pieces and _width(line) > room:
        pieces = pieces[:-1]
        line = [*head, *bar, *time, *_joined([*pieces, more])]
    return cut(line, room)


def _width(line: Line) -> int:
    return sum(text_width(text) for _, text in line)
