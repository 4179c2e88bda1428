"""What all loggers of results share: columns, learning rates, and when to close."""

from collections.abc import Mapping
from typing import Any

from clarion.callbacks.base import Callback
from clarion.console import is_first_rank

__all__ = ["Logger"]


class Logger(Callback):
    """A callback that writes the results of each epoch, and of each train batch if wanted.

    The columns are fixed when a training begins, in this order: ``epoch``, ``time`` (with batch
    granularity ``epoch``, ``batch``, ``size``, ``time``), ``lr`` or one ``lr_group_<i>`` per
    parameter group, ``loss``, the metrics, and the last two with ``val_`` before their names,
    also when there is no validation; then the same with ``val_<set>_`` for each validation set
    that has a name. Other keys of the logs are not written.

    To write a logger, override the methods whose names end in ``_write``, and ``_close``. With
    several ranks, only the first one writes.

    Args:
        batch_granularity: Whether to write the results of each train batch too. They are read
            from the device then, which waits for it.

    Attributes:
        fieldnames: The columns of the training under way.
        epoch_number: The epoch under way, from 1; 0 before the first.
    """

    def __init__(self, *, batch_granularity: bool = False) -> None:
        self.batch_granularity = batch_granularity
        self.epoch_number = 0
        self.fieldnames: list[str] = []

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Fix the columns and open what is written to."""
        self.epoch_number = 0
        self.fieldnames = self._columns()
        if is_first_rank():
            self._on_train_begin_write(logs)

    def on_epoch_begin(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Remember the number of the epoch."""
        self.epoch_number = epoch_number
        if is_first_rank():
            self._on_epoch_begin_write(epoch_number, logs)

    def on_train_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Write the results of the batch, if batches are wanted."""
        if self.batch_granularity and is_first_rank():
            self._on_train_batch_end_write(batch_number, self._known(logs))

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Write the results of the epoch."""
        if is_first_rank():
            self._on_epoch_end_write(epoch_number, self._known(logs))

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Write what is left and close."""
        if is_first_rank():
            self._on_train_end_write(logs)
        self._close()

    def on_exception(self, error: BaseException) -> None:
        """Close: what has been written until the error stays."""
        self._close()

    def _on_train_begin_write(self, logs: Mapping[str, Any]) -> None:
        """Write what comes before the first epoch."""

    def _on_epoch_begin_write(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Write what comes before an epoch."""

    def _on_train_batch_end_write(self, batch_number: int, logs: dict[str, Any]) -> None:
        """Write a train batch; ``logs`` holds the columns that it has values for."""

    def _on_epoch_end_write(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Write an epoch; ``logs`` holds the columns that it has values for, no learning rate."""

    def _on_train_end_write(self, logs: Mapping[str, Any]) -> None:
        """Write what comes after the last epoch."""

    def _close(self) -> None:
        """Release files and the like; may be called more than once, and before any was opened."""

    def _get_current_learning_rates(self) -> dict[str, float]:
        """Return ``{"lr": ...}``, or one ``lr_group_<i>`` per parameter group if several."""
        groups = getattr(getattr(self.model, "optimizer", None), "param_groups", [])
        rates = [float(group["lr"]) for group in groups]
        if len(rates) == 1:
            return {"lr": rates[0]}
        return {f"lr_group_{i}": rate for i, rate in enumerate(rates)}

    def _columns(self) -> list[str]:
        results = ["loss", *self.model.metrics_names]
        return [
            *(["epoch", "batch", "size", "time"] if self.batch_granularity else ["epoch", "time"]),
            *self._get_current_learning_rates(),
            *results,
            *(f"val_{name}" for name in results),
            *self._columns_of_sets(),
        ]

    def _columns_of_sets(self) -> list[str]:
        """Return the columns of the validation sets with names; one training may have others."""
        results = ["loss", *self.model.metrics_names]
        sets = getattr(self.model, "validation_names", [])
        return [f"val_{name}_{result}" for name in sets for result in results]

    def _known(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that have a column, in the order of the columns."""
        values = {name: logs[name] for name in self.fieldnames if name in logs}
        return {name: value for name, value in values.items() if value is not None}
