"""Stop when what is watched no longer gets better."""

from collections.abc import Mapping
from typing import Any

from clarion.arguments import checked_arguments
from clarion.callbacks.memory import RememberingCallback
from clarion.callbacks.monitor import (
    check_mode,
    check_patience,
    check_watchable,
    improves,
    watched,
    worst,
)
from clarion.console import say

__all__ = ["EarlyStopping"]


class EarlyStopping(RememberingCallback):
    """Stops the training after some epochs without improvement.

    Args:
        monitor: The key of the epoch logs that is watched.
        min_delta: By how much a value has to be better than the best one to count, in its unit.
        patience: After how many epochs in a row without improvement to stop; 0 acts as 1.
        verbose: Whether to print a line when it stops.
        mode: ``"min"`` if less is better, ``"max"`` if more is.

    Attributes:
        best: The best value so far.
        wait: Epochs since then.
        stopped_epoch: The epoch at whose end it stopped; 0 before that.

    Raises:
        InvalidArgumentError: If ``mode`` is neither ``"min"`` nor ``"max"``, or ``patience`` no
            number of at least 0.
    """

    @checked_arguments
    def __init__(
        self,
        *,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: bool = False,
        mode: str = "min",
    ) -> None:
        check_mode(type(self).__name__, mode)
        check_patience(type(self).__name__, patience)
        self.monitor = monitor
        self.min_delta = min_delta
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.best = worst(mode)
        self.wait = 0
        self.stopped_epoch = 0

    def fresh_memory(self) -> dict[str, Any]:
        """Return the memory before a training: no best value, no epoch without improvement."""
        return {"best": worst(self.mode), "wait": 0, "stopped_epoch": 0}

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Forget the training before, unless this one resumes.

        Raises:
            MissingMonitorError: If it is certain that the logs will not hold ``monitor``.
        """
        super().on_train_begin(logs)
        check_watchable(self)

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Compare with the best epoch, and stop if patience has run out.

        Raises:
            MissingMonitorError: If ``logs`` does not hold ``monitor``.
        """
        current = watched(self, logs, epoch_number)
        if improves(current, self.best, self.mode, self.min_delta):
            self.best = current
            self.wait = 0
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.stopped_epoch = epoch_number
            self.model.stop_training = True
            if self.verbose:
                say(f"Epoch {epoch_number}: early stopping")
