"""The command line of both programs."""

from collections.abc import Callable, Sequence
from typing import Any

from clarion.errors import ClarionError

from .settings import Settings, from_command_line

__all__ = ["run"]


def run(train: Callable[[Settings], Any], arguments: Sequence[str] | None = None) -> None:
    """Train with the settings of the command line; end with one message if that cannot work.

    Args:
        train: What trains.
        arguments: The arguments; those of this process if None.
    """
    try:
        train(from_command_line(arguments))
    except ClarionError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("Stopped. The same line goes on from the last checkpoint.") from None
