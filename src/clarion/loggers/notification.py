"""A callback that sends messages about the progress of a run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from clarion.callbacks.base import Callback
from clarion.console import is_first_rank
from clarion.errors import InvalidArgumentError

__all__ = ["NotificationCallback", "Notificator"]


class Notificator(ABC):
    """Something that delivers messages: a mail, a chat, a telephone."""

    @abstractmethod
    def send_notification(self, message: str, *, subject: str | None = None) -> None:
        """Deliver a message.

        Args:
            message: The text; may be empty.
            subject: Its title.
        """


class NotificationCallback(Callback):
    """Send a message when a training or an evaluation begins and ends, and after epochs.

    The messages of epochs and evaluations hold the results, a line each.

    Args:
        notificator: Anything with the method of `Notificator`.
        alert_frequency: Report every so many epochs, those whose number it divides.
        experiment_name: A name to put into the subjects.

    Raises:
        InvalidArgumentError: If ``alert_frequency`` is less than 1.
    """

    def __init__(
        self,
        notificator: Notificator,
        alert_frequency: int = 1,
        experiment_name: str | None = None,
    ) -> None:
        if alert_frequency < 1:
            raise InvalidArgumentError(
                f"NotificationCallback got alert_frequency={alert_frequency}: give the number of "
                "epochs from one message to the next, 1 or more."
            )
        self.notificator = notificator
        self.alert_frequency = alert_frequency
        self.experiment_name = experiment_name

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Say that the training starts."""
        self._send("Start of the training")

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Send the results of the epoch, if its turn has come."""
        if epoch_number % self.alert_frequency == 0:
            message = f"Here the epoch metrics: \n{_lines(logs)}"
            self._send(f"Epoch {epoch_number} is done", message)

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Say that the training has ended."""
        self._send("End of the training")

    def on_test_begin(self, logs: Mapping[str, Any]) -> None:
        """Say that the evaluation starts."""
        self._send("Start of the testing")

    def on_test_end(self, logs: Mapping[str, Any]) -> None:
        """Send the results of the evaluation."""
        self._send("End of the testing", f"Here the test metrics: \n{_lines(logs)}")

    def _send(self, subject: str, message: str = "") -> None:
        if is_first_rank():
            name = "" if self.experiment_name is None else f" for {self.experiment_name}"
            self.notificator.send_notification(message, subject=f"{subject}{name}.")


def _lines(logs: Mapping[str, Any]) -> str:
    # The blank before all lines but the first is part of the text that programs match.
    return " ".join(f"{name}: {value}\n" for name, value in logs.items())
