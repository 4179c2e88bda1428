"""A bar that fills with the steps done."""

from collections.abc import Sequence

__all__ = ["ProgressBar"]

_EIGHTHS = (" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_DEFAULT_FORMAT = "{percentage} |{bar}"


class ProgressBar:
    """A bar that fills with the steps done; ``str(bar)`` is what to show.

    Args:
        steps: How many steps fill the bar.
        bar_length: The length of the full bar, in characters.
        bar_format: A format string with ``{percentage}`` and ``{bar}``.
        bar_character: What the bar consists of.
        partial_bar_characters: What stands for a part of ``bar_character``, from no part to the
            largest part; zero to seven eighths of a block if omitted, nothing if empty.

    Example:
        >>> bar = ProgressBar(4, bar_length=8)
        >>> bar.update(3)
        >>> str(bar)
        ' 75.00% |██████  '
    """

    def __init__(
        self,
        steps: int,
        *,
        bar_length: int = 20,
        bar_format: str | None = None,
        bar_character: str = "█",
        partial_bar_characters: Sequence[str] | None = None,
    ) -> None:
        self.steps = steps
        self.bar_length = bar_length
        self.bar_format = _DEFAULT_FORMAT if bar_format is None else bar_format
        self.bar_character = bar_character
        self.partial_bar_characters = (
            _EIGHTHS if partial_bar_characters is None else tuple(partial_bar_characters)
        )
        self.actual_steps = 0

    def update(self, n: int = 1) -> None:
        """Count ``n`` more steps as done."""
        self.actual_steps += n

    def reset(self) -> None:
        """Count no step as done."""
        self.actual_steps = 0

    @property
    def percentage(self) -> str:
        """How much is done, in percent; above 100 when there were more steps than announced."""
        share = self.actual_steps / self.steps if self.steps > 0 else 1.0
        return f"{100 * share:6.2f}%"

    def progress_bar_formatting(self) -> str:
        """Return the bar alone, ``bar_length`` characters wide."""
        if self.actual_steps >= self.steps:
            return self.bar_character * self.bar_length
        parts = max(1, len(self.partial_bar_characters))
        whole, part = divmod(self.bar_length * parts * self.actual_steps // self.steps, parts)
        bar = self.bar_character * whole + "".join(self.partial_bar_characters[part : part + 1])
        return bar.ljust(self.bar_length)

    def __str__(self) -> str:
        return self.bar_format.format(
            percentage=self.percentage, bar=self.progress_bar_formatting()
        )
