"""End a training with the weights of its best epoch."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from clarion.arguments import checked_arguments
from clarion.callbacks.measured import measured_weights
from clarion.callbacks.memory import RememberingCallback
from clarion.callbacks.monitor import check_mode, check_watchable, improves, watched, worst
from clarion.console import say

__all__ = ["BestModelRestore"]


class BestModelRestore(RememberingCallback):
    """Keeps the weights of the best epoch in memory and puts them back when the training ends.

    Args:
        monitor: The key of the epoch logs that is watched.
        mode: ``"min"`` if less is better, ``"max"`` if more is.
        verbose: Whether to print a line at each improvement and at the end.

    Attributes:
        current_best: The best value so far.
        best_weights: Copies of the weights of that epoch, on the CPU; None before the first.

    Raises:
        InvalidArgumentError: If ``mode`` is neither ``"min"`` nor ``"max"``.
    """

    @checked_arguments
    def __init__(
        self, *, monitor: str = "val_loss", mode: str = "min", verbose: bool = False
    ) -> None:
        check_mode(type(self).__name__, mode)
        self.monitor = monitor
        self.mode = mode
        self.verbose = verbose
        self.current_best = worst(mode)
        self.best_weights: dict[str, Tensor] | None = None

    def fresh_memory(self) -> dict[str, Any]:
        """Return the memory before a training: no best value, no weights."""
        return {"current_best": worst(self.mode), "best_weights": None}

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Forget the training before, unless this one resumes.

        Raises:
            MissingMonitorError: If it is certain that the logs will not hold ``monitor``.
        """
        super().on_train_begin(logs)
        check_watchable(self)

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Copy the weights if this epoch is the best so far.

        Raises:
            MissingMonitorError: If ``logs`` does not hold ``monitor``.
        """
        current = watched(self, logs, epoch_number)
        if not improves(current, self.current_best, self.mode):
            return
        if self.verbose:
            say(
                f"Epoch {epoch_number}: {self.monitor} improved from "
                f"{self.current_best:0.5f} to {current:0.5f}"
            )
        self.current_best = current
        with measured_weights(self.model):
            self.best_weights = self.model.get_weight_copies()

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Put the best weights into the network; warn if there are none."""
        if self.best_weights is None:
            warnings.warn("No weights to restore!", stacklevel=2)
            return
        if self.verbose:
            say("Restoring best model")
        self.model.set_weights(self.best_weights)
