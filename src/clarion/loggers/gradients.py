"""Loggers that record the gradients of each optimizer step."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from clarion.callbacks.atomic import make_directory
from clarion.callbacks.base import Callback
from clarion.callbacks.memory import check_keys
from clarion.console import is_first_rank
from clarion.errors import InvalidArgumentError
from clarion.loggers.gradient_stats import (
    STATISTICS,
    gradient_statistics,
    is_tracked,
    read_statistics,
)
from clarion.loggers.rows import (
    AppendedRows,
    AtomicRows,
    ResumableRows,
    Rows,
    check_separator,
)
from clarion.loggers.tensorboard import ScalarWriter, open_writer

__all__ = [
    "AtomicCSVGradientLogger",
    "CSVGradientLogger",
    "GradientLoggerBase",
    "LayerStats",
    "MemoryGradientLogger",
    "TensorBoardGradientLogger",
]

LayerStats = dict[str, dict[str, float]]
"""The statistics of each parameter, by its name."""


class GradientLoggerBase(Callback):
    """Measure the gradients of each optimizer step, as the optimizer receives them.

    For each parameter: ``mean`` and ``var`` of the absolute values, ``min``, ``abs_min``,
    ``max``, ``abs_max`` and ``l<norm>`` for each norm. They are computed on the device and read
    in one transfer per step. With ``batches_per_step > 1`` there is one record per step, with the
    number of the batch that completed it. A parameter that has no gradient is left out.

    The base of loggers that override `log_stats`. With several ranks, only the first one logs.

    Args:
        keep_bias: Whether to look at parameters with ``bias`` in their names too.
        norm_type: The order of the norm, or several.
        every: Record every so many optimizer steps, those whose number it divides; the others
            cost nothing.

    Attributes:
        layers: The names of the parameters that are looked at.
        stats_names: The names of the statistics.
        epoch: The number of the epoch under way.

    Raises:
        InvalidArgumentError: If ``every`` is less than 1.
    """

    def __init__(
        self,
        keep_bias: bool = False,
        norm_type: float | Sequence[float] = 2.0,
        every: int = 1,
    ) -> None:
        if every < 1:
            raise InvalidArgumentError(
                f"{type(self).__name__} got every={every}: give the number of optimizer steps "
                "from one record to the next, 1 or more."
            )
        self.keep_bias = keep_bias
        self.norm_type = [norm_type] if isinstance(norm_type, int | float) else list(norm_type)
        self.every = every
        self.stats_names = [*STATISTICS, *(f"l{norm}" for norm in self.norm_type)]
        self.layers: list[str] = []
        self.epoch = 0
        self._measured: dict[str, Tensor] = {}

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Choose the parameters."""
        self._measured = {}
        self.layers = [
            name
            for name, parameter in self.model.network.named_parameters()
            if is_tracked(parameter, name, self.keep_bias)
        ]

    def on_epoch_begin(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Remember the number of the epoch."""
        self.epoch = epoch_number

    def on_optimizer_step_end(self, step: int) -> None:
        """Measure the gradients on the device, if the step's turn has come."""
        if step % self.every:
            return
        parameters = dict(self.model.network.named_parameters())
        measured = {
            name: gradient_statistics(parameters[name].grad, self.norm_type) for name in self.layers
        }
        self._measured = {name: values for name, values in measured.items() if values is not None}

    def on_train_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Read what the step measured, and log it."""
        if not self._measured:
            return
        measured, self._measured = self._measured, {}
        if is_first_rank():
            rows = read_statistics(list(measured.values()))
            layer_stats = {
                name: dict(zip(self.stats_names, row, strict=True))
                for name, row in zip(measured, rows, strict=True)
            }
            self.log_stats(self.epoch, batch_number, logs, layer_stats)

    def log_stats(
        self,
        epoch_number: int,
        batch_number: int,
        logs: Mapping[str, Any],
        layer_stats: LayerStats,
    ) -> None:
        """Log the statistics of a step.

        Args:
            epoch_number: The epoch.
            batch_number: The batch that completed the step.
            logs: The logs of this batch.
            layer_stats: For each parameter, the value of each of `stats_names`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to log: see log_stats.")


class MemoryGradientLogger(GradientLoggerBase):
    """Keep the statistics of the gradients in memory.

    Args:
        **kwargs: See `GradientLoggerBase`.

    Attributes:
        history: For each parameter, one dict per record: the statistics, ``epoch``, ``batch``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.history: dict[str, list[dict[str, float]]] = {}

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Choose the parameters and forget the last training."""
        super().on_train_begin(logs)
        self.history = {name: [] for name in self.layers}

    def log_stats(
        self,
        epoch_number: int,
        batch_number: int,
        logs: Mapping[str, Any],
        layer_stats: LayerStats,
    ) -> None:
        """Append the statistics to the history."""
        for name, stats in layer_stats.items():
            self.history[name].append({**stats, "epoch": epoch_number, "batch": batch_number})


class TensorBoardGradientLogger(GradientLoggerBase):
    """Write the statistics of the gradients for TensorBoard.

    Each parameter has a chart ``gradient_stats/<name>``, each statistic a curve in it. The writer
    is left open.

    Args:
        writer: A ``SummaryWriter``, or the directory for a new one.
        initial_step: The number of optimizer steps done before; the first one is drawn after it.
        **kwargs: See `GradientLoggerBase`.

    Attributes:
        current_step: The number of the last step. It goes on from one training to the next.

    Raises:
        MissingDependencyError: If a directory is given and tensorboard is not installed.
    """

    def __init__(
        self, writer: ScalarWriter | str | Path, initial_step: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.writer = open_writer("TensorBoardGradientLogger", writer)
        self.current_step = initial_step

    def on_optimizer_step_end(self, step: int) -> None:
        """Count the step and measure its gradients, if its turn has come."""
        self.current_step += 1
        super().on_optimizer_step_end(step)

    def log_stats(
        self,
        epoch_number: int,
        batch_number: int,
        logs: Mapping[str, Any],
        layer_stats: LayerStats,
    ) -> None:
        """Write each statistic."""
        for name, stats in layer_stats.items():
            for key, value in stats.items():
                self.writer.add_scalars(f"gradient_stats/{name}", {key: value}, self.current_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the last step."""
        return {"current_step": self.current_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the steps of a training that is resumed."""
        check_keys(self, state, ["current_step"])
        self.current_step = state["current_step"]


class _RowGradientLogger(GradientLoggerBase):
    """A gradient logger of rows: what its two children have in common.

    When a training resumes, the files go on where the checkpoint was written, as those of
    ``CSVLogger`` do.
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str, append: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_separator(type(self).__name__, separator)
        self.filename = os.fspath(filename)
        self.separator = separator
        self.append = append
        self._files: dict[str, ResumableRows] = {}
        self._starts: dict[str, int] = {}
        self._resumed = False  # a state was loaded since the last training
        asker = f'{type(self).__name__}(filename="{self.filename}")'
        remedy = 'put {} where their names belong, for example "gradients_{}.csv".'
        try:
            is_same = self.filename.format("a") == self.filename.format("b")
        except (LookupError, ValueError) as error:
            raise InvalidArgumentError(
                f"{asker} cannot take the names of parameters ({error!r}): {remedy}"
            ) from error
        if is_same:
            raise InvalidArgumentError(f"{asker} is the same for all parameters: {remedy}")

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Choose the parameters and open a file for each."""
        super().on_train_begin(logs)
        self._close()
        starts = self._starts if self._resumed else {}
        self._resumed = False
        if is_first_rank():
            for name in self.layers:
                path, start = self.filename.format(name), starts.get(name)
                make_directory(Path(path).parent, f'{type(self).__name__}(filename="{path}")')
                self._files[name] = ResumableRows(
                    path, self._open, self.separator, self.append, start
                )
            self._starts = {name: file.start for name, file in self._files.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return how many rows each file had when the training began."""
        return {"start": dict(self._starts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the files of the training that is resumed."""
        check_keys(self, state, ["start"])
        self._starts = dict(state["start"])
        self._resumed = True

    def log_stats(
        self,
        epoch_number: int,
        batch_number: int,
        logs: Mapping[str, Any],
        layer_stats: LayerStats,
    ) -> None:
        """Add a row to the file of each parameter."""
        for name, stats in layer_stats.items():
            rows = self._files[name].opened(partial(_rows_before, (epoch_number, batch_number)))
            rows.add({"epoch": epoch_number, "batch": batch_number, **stats})

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Make sure that all rows stand in the files."""
        for file in self._files.values():
            file.publish()

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Close the files."""
        self._close()

    def on_exception(self, error: BaseException) -> None:
        """Close the files: what has been recorded until the error stays."""
        self._close()

    def _open(self, path: str | os.PathLike[str], append: bool, keep: int | None) -> Rows:
        raise NotImplementedError

    def _columns(self) -> list[str]:
        return ["epoch", "batch", *self.stats_names]

    def _close(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            file.close()


class CSVGradientLogger(_RowGradientLogger):
    """Write the statistics of the gradients into a CSV file per parameter, a row per step.

    The columns are ``epoch``, ``batch`` and the statistics. Each row is in the file at once. A
    training that is resumed goes on with the files, whatever ``append`` says.

    Args:
        filename: The files, with ``{}`` where the parameter's name belongs. Missing directories
            are made.
        separator: The character between two cells.
        append: Whether to go on in existing files; else they are overwritten.
        **kwargs: See `GradientLoggerBase`.

    Raises:
        InvalidArgumentError: If ``filename`` has no ``{}``, or other braces, or ``separator`` is no
            single character; when the training begins, if
            ``append`` is given and a file lacks a column.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        separator: str = ",",
        append: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(filename, separator, append, **kwargs)

    def _open(self, path: str | os.PathLike[str], append: bool, keep: int | None) -> Rows:
        return AppendedRows(path, self._columns(), self.separator, append, keep)


class AtomicCSVGradientLogger(_RowGradientLogger):
    """Write the files of `CSVGradientLogger` so that a kill at any moment leaves them whole.

    The rows are kept in memory; at the end of each epoch, of the training, and at an error, each
    file is replaced by a new one.

    Args:
        filename: The files, with ``{}`` where the parameter's name belongs. Missing directories
            are made.
        separator: The character between two cells.
        append: Whether to go on in existing files; else they are overwritten.
        temporary_filename: The temporary file, on the same file system, where each new file is
            prepared; a name of its own beside it if omitted.
        **kwargs: See `GradientLoggerBase`.

    Raises:
        InvalidArgumentError: If ``filename`` has no ``{}``, or other braces, or ``separator`` is no
            single character; when the training begins, if
            ``append`` is given and a file lacks a column.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        separator: str = ",",
        append: bool = False,
        temporary_filename: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filename, separator, append, **kwargs)
        self.temporary_filename = temporary_filename

    def _open(self, path: str | os.PathLike[str], append: bool, keep: int | None) -> Rows:
        temporary = self.temporary_filename
        return AtomicRows(path, self._columns(), self.separator, append, temporary, keep)


def _rows_before(moment: tuple[int, int], rows: list[dict[str, str]], start: int) -> int:
    """Return how many rows come before a batch, given as its epoch and its number."""
    keep = start
    for row in rows[start:]:
        if (int(row["epoch"]), int(row["batch"])) >= moment:
            break
        keep += 1
    return keep
