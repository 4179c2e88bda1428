"""A logger that writes the results of each epoch for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from clarion.console import is_first_rank
from clarion.loggers.base import Logger
from clarion.loggers.extras import require

__all__ = ["ScalarWriter", "TensorBoardLogger", "open_writer"]


class ScalarWriter(Protocol):
    """What is used of a ``SummaryWriter``, torch's or tensorboardX's."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write a point of a curve."""

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: dict[str, float], global_step: int
    ) -> None:
        """Write a point of each of several curves of a chart."""

    def close(self) -> None:
        """Write what is left and close the files."""


def open_writer(feature: str, writer: ScalarWriter | str | Path) -> ScalarWriter:
    """Return the writer, or a new ``SummaryWriter`` if a directory is given.

    On other ranks than the first, no files are made in the directory: the writer writes nothing.

    Args:
        feature: What needs it, for the message.
        writer: A writer or a directory.

    Raises:
        MissingDependencyError: If a directory is given and tensorboard is not installed.
    """
    if not isinstance(writer, str | Path):  # os.PathLike would take a MagicMock for a path
        return writer
    require(feature, "tensorboard", "tensorboard")
    if not is_first_rank():
        return _NoWriter()
    from torch.utils.tensorboard import SummaryWriter

    return cast(ScalarWriter, SummaryWriter(str(writer)))


class TensorBoardLogger(Logger):
    """Write the results of each epoch for TensorBoard.

    By default a result and its validation share a chart:
    ``add_scalars("loss", {"loss": ..., "val_loss": ...}, epoch)``; the learning rates are in the
    chart ``lr``, the seconds in ``time``. With ``split_train_val`` every key of the logs, ``epoch``
    included, has a chart of its own: ``add_scalar("val_loss", ..., epoch)``.

    The writer is closed when the training ends, by an error too; a ``SummaryWriter`` opens a new
    file if it is used again.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter`` or tensorboardX's, or the directory
            for a new one.
        split_train_val: Whether to draw the train and validation results in separate charts.

    Raises:
        MissingDependencyError: If a directory is given and tensorboard is not installed.
    """

    only_watches = True

    def __init__(self, writer: ScalarWriter | str | Path, split_train_val: bool = False) -> None:
        super().__init__(batch_granularity=False)
        self.writer = open_writer("TensorBoardLogger", writer)
        self.split_train_val = split_train_val

    def _on_epoch_end_write(self, epoch_number: int, logs: dict[str, Any]) -> None:
        rates = self._get_current_learning_rates()
        if self.split_train_val:
            for name, value in {**logs, **rates}.items():
                self.writer.add_scalar(name, value, epoch_number)
            return
        for chart, values in _charts(logs).items():
            self.writer.add_scalars(chart, values, epoch_number)
        if rates:
            self.writer.add_scalars("lr", rates, epoch_number)

    def _close(self) -> None:
        self.writer.close()


class _NoWriter:
    """A writer that writes nothing."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Do nothing."""

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: dict[str, float], global_step: int
    ) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _charts(logs: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Group each result with its validation; the number of the epoch is the axis, no result."""
    charts: dict[str, dict[str, float]] = {}
    for name, value in logs.items():
        if name != "epoch":
            charts.setdefault(name.removeprefix("val_"), {})[name] = value
    return charts
