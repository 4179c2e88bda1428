"""Stop when the loss is no number any more."""

import math
from collections.abc import Mapping
from typing import Any

from clarion.callbacks.base import Callback
from clarion.console import say
from clarion.errors import InvalidArgumentError

__all__ = ["TerminateOnNaN"]


class TerminateOnNaN(Callback):
    """Stops the training when the loss of a batch is nan or infinite, and says so once.

    Reading the loss waits for the device. On a GPU ``check_every=50`` makes that rare; what the
    batches in between would have shown is found at the end of the epoch, where the loss has been
    read anyway.

    Args:
        check_every: Look at each batch whose number is a multiple of this.

    Raises:
        InvalidArgumentError: If ``check_every`` is less than 1.
    """

    def __init__(self, check_every: int = 1) -> None:
        if check_every < 1:
            raise InvalidArgumentError(
                f"TerminateOnNaN(check_every={check_every}): a number of batches, at least 1."
            )
        self.check_every = check_every
        self._said = False

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Be ready to say it again."""
        self._said = False

    def on_train_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Look at the loss of the batch, if it is this batch's turn."""
        if batch_number % self.check_every == 0 and not _is_finite(logs["loss"]):
            self._terminate(f"Batch {batch_number:d}")

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Look at the loss of the epoch: it shows what no batch was asked for."""
        if not _is_finite(logs.get("loss", 0.0)):
            self._terminate(f"Epoch {epoch_number:d}")

    def _terminate(self, where: str) -> None:
        self.model.stop_training = True
        self.model.stop_immediately = True
        if not self._said:
            say(f"{where}: Invalid loss, terminating training")
            self._said = True


def _is_finite(loss: Any) -> bool:
    """Return whether a loss (a number, or an array or tensor with one element) is finite."""
    return math.isfinite(loss.item() if hasattr(loss, "item") else loss)
