"""The end of a training by a number of steps or a span of time."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from clarion.callbacks.base import Callback

__all__ = ["Limits"]


class Limits(Callback):
    """Ends a training at an optimizer step, so that accumulated batches are never cut apart.

    The epoch under way ends at once: it is validated and logged as any other.

    Args:
        max_steps: Optimizer steps of the whole training; None for no limit.
        max_seconds: Seconds from the beginning of this run; None for no limit.
    """

    only_watches = True

    def __init__(self, max_steps: int | None = None, max_seconds: float | None = None) -> None:
        self._max_steps = max_steps
        self._max_seconds = max_seconds
        self._deadline: float | None = None

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Start the clock."""
        if self._max_seconds is not None:
            self._deadline = monotonic() + self._max_seconds

    def on_optimizer_step_end(self, step: int) -> None:
        """Stop if a limit is reached."""
        late = self._deadline is not None and monotonic() >= self._deadline
        if late or (self._max_steps is not None and step >= self._max_steps):
            self.model.stop_training = True
            self.model.stop_immediately = True
