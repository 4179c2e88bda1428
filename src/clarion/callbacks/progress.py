"""Callbacks that show how far a run is, on standard output."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from clarion import console
from clarion.callbacks.base import Callback
from clarion.callbacks.progress_clock import Pace, StepTimes
from clarion.callbacks.progress_line import ColorProgress
from clarion.errors import InvalidArgumentError

__all__ = ["EpochProgressionCallback", "ProgressOptionError", "ProgressionCallback"]

_NOT_SHOWN = frozenset({"epoch", "batch", "size", "time"})


class ProgressOptionError(InvalidArgumentError, AssertionError):
    """An option of the display has a value that means nothing; an ``AssertionError`` too."""


class ProgressionCallback(Callback):
    """Shows the progress of a training, an evaluation or a prediction.

    A ``Model`` adds it by itself unless ``verbose=False``; pass the arguments below to ``fit`` and
    its like as ``progress_options={...}``.

    The line of a step shows the values of its batch, the line at the end of an epoch those of the
    epoch. On a terminal it is redrawn at most ten times a second and never wraps. In a file or a
    pipe the lines are plain text: one at the end of each epoch, and within a long one a line every
    half minute. An object in memory that stands for standard output gets a line for each step.
    Only a line that is drawn waits for the device.

    Args:
        coloring: Whether to use colours, or a dict that says which: its keys are ``text_color``,
            ``ratio_color``, ``metric_value_color``, ``time_color`` and ``progress_bar_color``, its
            values colorama's names of colours, for example ``"LIGHTRED_EX"``. ``True`` gives way
            to the environment variable NO_COLOR.
        progress_bar: Whether to draw a bar; it needs to know the number of steps.
        equal_weights: Whether all steps weigh the same in the time left; if not, later ones more.
        show_on_valid: Whether to show the steps of the validation.
        show_every_n_train_steps: ``"all"`` to show steps as described above, ``"none"`` for the
            line at the end alone, or n to show each n-th step.
        show_every_n_valid_steps: The same for the validation.
        show_every_n_test_steps: The same for evaluations and predictions.

    Raises:
        ProgressOptionError: If a ``show_every_n`` option is something else. It is a ``ValueError``
            and an ``AssertionError``.
        UnknownNameError: If ``coloring`` has a key or a colour that is not known. It is a
            ``KeyError``.
    """

    only_watches = True

    def __init__(
        self,
        *,
        coloring: bool | Mapping[str, str] | None = True,
        progress_bar: bool = True,
        equal_weights: bool = False,
        show_on_valid: bool = True,
        show_every_n_train_steps: int | str = "all",
        show_every_n_valid_steps: int | str = "all",
        show_every_n_test_steps: int | str = "all",
    ) -> None:
        self.progress_bar = progress_bar
        self.equal_weights = equal_weights
        self.show_on_valid = show_on_valid
        self.show_every_n_train_steps = _checked(
            "show_every_n_train_steps", show_every_n_train_steps
        )
        self.show_every_n_valid_steps = _checked(
            "show_every_n_valid_steps", show_every_n_valid_steps
        )
        self.show_every_n_test_steps = _checked("show_every_n_test_steps", show_every_n_test_steps)
        self.color_progress = ColorProgress(coloring)
        self._pace = Pace()
        self._times = StepTimes(equal_weights)
        self._steps: int | None = None
        self._done = 0
        self._train_done: int | None = None

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Find out what standard output is."""
        self._begin_run()

    def on_epoch_begin(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Begin the lines of an epoch."""
        self.color_progress.set_epoch(epoch_number, self.params["epochs"])
        self._train_done = None
        self._begin_pass(self.params.get("steps"), self.show_every_n_train_steps)

    def on_valid_begin(self, logs: Mapping[str, Any]) -> None:
        """Begin the lines of a validation."""
        if self._train_done is None:  # not yet in the validation before this one
            self._train_done = self._done
        every = self.show_every_n_valid_steps if self.show_on_valid else "none"
        self._begin_pass(self.params.get("valid_steps"), every)

    def on_valid_end(self, logs: Mapping[str, Any]) -> None:
        """Look at the next train step, which begins the lines of its pass anew."""
        self._pace.next = 0.0

    def on_test_begin(self, logs: Mapping[str, Any]) -> None:
        """Begin the lines of an evaluation."""
        self._begin_run()
        self.color_progress.set_epoch()
        self._begin_pass(self.params.get("steps"), self.show_every_n_test_steps)

    def on_predict_begin(self, logs: Mapping[str, Any]) -> None:
        """Begin the lines of a prediction."""
        self.on_test_begin(logs)

    def on_train_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Show the line of a step if it is due; the logs are read only then."""
        if self._train_done is not None:  # a validation came in between
            self._train_done = None
            self._begin_pass(self.params.get("steps"), self.show_every_n_train_steps)
        self.on_valid_batch_end(batch_number, logs)

    def is_due(self, batch_number: int) -> bool:
        """Count a batch that has ended, and tell whether a line may be due.

        A run that nobody else listens to asks this instead of calling the hook, which takes logs.
        """
        self._done = batch_number
        pace = self._pace
        return monotonic() >= pace.next or batch_number == pace.last

    def on_valid_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Show the line of a step, likewise."""
        if self.is_due(batch_number):
            self._show_step(batch_number, logs)

    on_test_batch_end = on_valid_batch_end
    on_predict_batch_end = on_valid_batch_end

    def on_epoch_end(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Show the line of the epoch."""
        if self._train_done is None:
            self._show_end({"Train steps": self._done}, logs)
        else:
            self._show_end({"Train steps": self._train_done, "Val steps": self._done}, logs)

    def on_test_end(self, logs: Mapping[str, Any]) -> None:
        """Show the line of the evaluation."""
        self._show_end({"Test steps": self._done}, logs)

    def on_predict_end(self, logs: Mapping[str, Any]) -> None:
        """Show the line of the prediction."""
        self._show_end({"Prediction steps": self._done}, logs)

    def on_exception(self, error: BaseException) -> None:
        """End the line, so that the traceback begins on its own."""
        console.end_line()

    def _begin_run(self) -> None:
        self.color_progress.look()
        self._pace.begin_run(self.color_progress.kind)

    def _begin_pass(self, steps: int | None, every: int | str) -> None:
        self._steps = steps
        self._done = 0
        every = every if console.is_first_rank() else "none"
        self._pace.begin_pass(self.color_progress.kind, every, steps)
        self._times.begin_pass()

    def _show_step(self, number: int, logs: Mapping[str, Any]) -> None:
        self._times.start(number)
        if not self._pace.due(number):
            return
        seconds = self._times.mean(number, logs.get("time"))
        if self._steps is not None:
            seconds *= max(0, self._steps - number)
        self.color_progress.show_step(
            number, self._steps, seconds, _values(logs), bar=self.progress_bar
        )

    def _show_end(self, counts: Mapping[str, int], logs: Mapping[str, Any]) -> None:
        self.color_progress.show_end(counts, logs["time"], _values(logs))
        self._pace.drawn()


class EpochProgressionCallback(Callback):
    """Shows one line at the end of each epoch and nothing in between; pass ``verbose=False`` too.

    Args:
        coloring: See ``ProgressionCallback``.
        show_every_n_epochs: ``"all"``, ``"none"``, or n to show each n-th epoch.

    Raises:
        ProgressOptionError: If ``show_every_n_epochs`` is something else.
    """

    def __init__(
        self,
        *,
        coloring: bool | Mapping[str, str] | None = True,
        show_every_n_epochs: int | str = "all",
    ) -> None:
        self.show_every_n_epochs = _checked("show_every_n_epochs", show_every_n_epochs)
        self.color_progress = ColorProgress(coloring)

    def on_epoch_end(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Show the line of the epoch."""
        every = self.show_every_n_epochs
        if every == "none" or (isinstance(every, int) and epoch_number % every):
            return
        self.color_progress.look()
        self.color_progress.set_epoch(epoch_number, self.params["epochs"])
        counts = {"Train steps": self.params.get("steps")}
        if any(name.startswith("val_") for name in logs):
            counts["Val steps"] = self.params.get("valid_steps")
        self.color_progress.show_end(counts, logs["time"], _values(logs))


def _checked(name: str, every: int | str) -> int | str:
    if every in ("all", "none"):
        return every
    if isinstance(every, int) and not isinstance(every, bool) and every >= 1:
        return every
    raise ProgressOptionError(
        f'{name}={every!r}: expected "all", "none", or a number of at least 1.'
    )


def _values(logs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in logs.items() if name not in _NOT_SHOWN}
