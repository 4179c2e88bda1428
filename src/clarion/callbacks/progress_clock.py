"""When a progress line is due, and how long a step takes."""

from math import inf
from time import monotonic

from clarion.console import StreamKind

__all__ = ["Pace", "StepTimes"]

_INTERVALS: dict[StreamKind, float] = {"terminal": 0.1, "notebook": 0.1, "file": 30.0, "other": 0.0}
"""The seconds between two lines; an object in memory gets every one, as in Poutyne."""
_FIRST_IN_FILE = 5.0


class Pace:
    """Decides at which steps a line is drawn.

    On a terminal these are the first and the last step of a pass, and ten a second in between; in
    a notebook ten a second; in a file one after five seconds and then one every half minute. For
    a step without a line this costs one look at the clock.

    Attributes:
        next: The time (of ``time.monotonic``) before which no line is due.
        last: The step whose line is due whatever the time is.
        now: The time at the step for which ``due`` was asked last.
    """

    def __init__(self) -> None:
        self.next = 0.0
        self.last: int | None = None
        self._every = 1
        self._interval = 0.0
        self._due = 0.0

    def begin_run(self, kind: StreamKind) -> None:
        """Begin a training, an evaluation or a prediction."""
        self._due = monotonic() + _FIRST_IN_FILE if kind == "file" else 0.0

    def begin_pass(self, kind: StreamKind, every: int | str, steps: int | None) -> None:
        """Begin a pass of so many steps; ``every`` is "all", "none", or n for each n-th step."""
        self._interval = _INTERVALS[kind]
        self._every, self.last = 1, None
        if isinstance(every, int):
            self._every = every
            self._interval = self._interval if kind == "notebook" else 0.0
        elif kind == "terminal" and every == "all":
            self.last = steps
        if kind == "terminal" or self._interval == 0.0:
            self._due = 0.0
        self.next = inf if every == "none" else 0.0

    def due(self, step: int) -> bool:
        """Return whether the line of this step is due; if so, set the time of the next."""
        now = monotonic()
        self.next = self._due
        if step != self.last and (now < self._due or step % self._every):
            return False
        self.drawn(now)
        return True

    def drawn(self, now: float | None = None) -> None:
        """Take note that a line has been drawn."""
        self._due = self.next = (monotonic() if now is None else now) + self._interval


class StepTimes:
    """The mean time of a step; later steps weigh more, because they tell more of what is to come.

    Step i has weight i, or all have the same. It is enough to be told of some of the steps: those
    in between are taken to have lasted equally long.

    Args:
        equal_weights: Whether all steps weigh the same.
    """

    def __init__(self, equal_weights: bool = False) -> None:
        self.equal_weights = equal_weights
        self.begin_pass()

    def begin_pass(self) -> None:
        """Forget the steps of the pass before."""
        self._time = monotonic()
        self._step: int | None = None
        self._sum = self._weights = 0.0

    def start(self, step: int) -> None:
        """Learn the first step of the pass; a resumed one does not begin at 1."""
        if self._step is None:
            self._step = step - 1

    def mean(self, step: int, seconds: float | None = None) -> float:
        """Return the mean time of the steps up to this one, in seconds.

        Args:
            step: The number of the step, which has just ended.
            seconds: How long it took, if known; used if the step before it was reported too.
        """
        self.start(step)
        before, self._step = self._step or 0, step
        now = monotonic()
        elapsed, self._time = now - self._time, now
        steps = step - before
        if steps == 1 and seconds is not None:
            elapsed = seconds
        if steps > 0:
            weights = (
                steps if self.equal_weights else (step * (step + 1) - before * (before + 1)) / 2
            )
            self._sum += elapsed / steps * weights
            self._weights += weights
        return self._sum / self._weights if self._weights else 0.0
