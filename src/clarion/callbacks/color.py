"""Colours of a line of text: names, codes, and text painted in them."""

import os
import unicodedata
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from clarion.errors import UnknownNameError, quoted, suggestion

__all__ = [
    "EmptyStringAttrClass",
    "Line",
    "color_codes",
    "cut",
    "default_color_settings",
    "paint",
    "palette",
    "text_width",
]

default_color_settings: dict[str, str] = {
    "text_color": "MAGENTA",
    "ratio_color": "CYAN",
    "metric_value_color": "LIGHTBLUE_EX",
    "time_color": "GREEN",
    "progress_bar_color": "MAGENTA",
}
"""What each part of a progress line is coloured with, unless ``coloring`` says otherwise."""

_BASE_COLORS = ("BLACK", "RED", "GREEN", "YELLOW", "BLUE", "MAGENTA", "CYAN", "WHITE")

color_codes: dict[str, str] = {
    **{name: f"\033[{30 + number}m" for number, name in enumerate(_BASE_COLORS)},
    "RESET": "\033[39m",
    **{f"LIGHT{name}_EX": f"\033[{90 + number}m" for number, name in enumerate(_BASE_COLORS)},
}
"""The ANSI code (ECMA-48, "select graphic rendition") of each of colorama's names of a colour."""

_RESET = "\033[0m"

Line = list[tuple[str, str]]
"""A line of text in pieces: what is coloured alike (a key of the settings), and its text."""


class EmptyStringAttrClass:
    """An object whose every attribute is the empty string: the codes of no colour at all."""

    def __getattr__(self, name: str) -> str:
        return ""


def palette(coloring: bool | Mapping[str, str] | None = True) -> Any:
    r"""Return the codes of the parts of a line, as attributes: ``text_color``, ``ratio_color``, ...

    Args:
        coloring: Whether to use the default colours, or a dict that replaces some of them: keys
            are those of ``default_color_settings``, values colorama's names of a colour, for
            example ``"LIGHTRED_EX"``. ``True`` gives way to the environment variable NO_COLOR
            (no-color.org); a dict, which was asked for, does not.

    Raises:
        UnknownNameError: If a key or a colour of the dict is not known.

    Example:
        >>> palette({"text_color": "RED"}).text_color
        '\x1b[31m'
    """
    if not isinstance(coloring, Mapping):
        if not coloring or os.environ.get("NO_COLOR"):
            return EmptyStringAttrClass()
        coloring = {}
    _check_names(coloring)
    chosen = {**default_color_settings, **coloring}
    return SimpleNamespace(**{part: color_codes[color.upper()] for part, color in chosen.items()})


def paint(line: Line, codes: Any) -> str:
    """Return the text of a line, each piece after the code of its part, and a reset at the end.

    Args:
        line: Pairs of a part and its text.
        codes: An object whose attributes are the codes of the parts.
    """
    text = "".join(f"{getattr(codes, part)}{piece}" for part, piece in line)
    return f"{text}{_RESET}" if codes.text_color else text


def text_width(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    Wide characters (Chinese, Japanese, Korean) take two, combining marks none.

    Example:
        >>> text_width("loss: 0.5"), text_width("损失")
        (9, 4)
    """
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def cut(line: Line, width: int) -> Line:
    """Return as much of the beginning of a line as fits into a number of columns."""
    kept: Line = []
    for part, text in line:
        fitting = text
        while text_width(fitting) > width:
            fitting = fitting[:-1]
        kept.append((part, fitting))
        width -= text_width(fitting)
        if fitting != text:
            break
    return kept


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _check_names(coloring: Mapping[str, str]) -> None:
    for part, color in coloring.items():
        if part not in default_color_settings:
            hint = suggestion(part, default_color_settings) or "."
            raise UnknownNameError(
                f'Unknown part "{part}" in coloring{hint} Known: {quoted(default_color_settings)}.'
            )
        if color.upper() not in color_codes:
            hint = suggestion(color, map(str.lower, color_codes)) or "."
            raise UnknownNameError(
                f'Unknown colour "{color}" for "{part}" in coloring{hint} '
                f"Known: {quoted(color_codes)}."
            )
