"""Trackers that sum up the gradients of an epoch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clarion.callbacks.base import Callback
from clarion.callbacks.memory import check_keys
from clarion.console import is_first_rank
from clarion.errors import InvalidArgumentError
from clarion.loggers.gradient_stats import gradient_statistics, is_tracked
from clarion.loggers.tensorboard import ScalarWriter, open_writer

__all__ = ["GradientTracker", "TensorBoardGradientTracker", "WeightsGradientsStatsTracker"]


_SUMS = ("count", "mean", "m2", "low", "high")


class WeightsGradientsStatsTracker:
    """Running statistics of the gradients of several parameters.

    Of each parameter: mean and variance over the steps of the mean absolute gradient, and the
    extremes of the gradient and of its absolute value. Everything stays on the device until
    `get_stats`.

    Args:
        number_layers: How many parameters each call of `batch_statistic_upgrade` is given.

    Source:
        Welford 1962, Technometrics 4(3), 419-420 (the running variance).
    """

    def __init__(self, number_layers: int) -> None:
        self.number_layers = number_layers
        self._sums: _RunningSums | None = None

    def batch_statistic_upgrade(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Take in the gradients of a step; a parameter without one is passed over.

        Args:
            named_parameters: Names and parameters, in the same order in each call.

        Raises:
            InvalidArgumentError: If there are not ``number_layers`` of them.
        """
        statistics = [gradient_statistics(parameter.grad) for _, parameter in named_parameters]
        if len(statistics) != self.number_layers:
            raise InvalidArgumentError(
                f"The tracker was made for {self.number_layers} parameters and got "
                f"{len(statistics)}."
            )
        known = [values for values in statistics if values is not None]
        if not known:
            return
        if self._sums is None:
            self._sums = _RunningSums(self.number_layers, known[0].device)
        self._sums.update(statistics)

    def get_stats(self, layer_names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the statistics since the last call, and start anew.

        Args:
            layer_names: The names of the parameters, in the order of the calls.

        Returns:
            For each parameter that had a gradient ``mean``, ``mean_std_dev_up`` and
            ``mean_std_dev_down`` (the mean plus and minus the standard deviation), ``min``,
            ``abs_min``, ``max``, ``abs_max``.
        """
        rows = [] if self._sums is None else self._sums.read()
        self.reset()
        return {
            name: _summary(row) for name, row in zip(layer_names, rows, strict=False) if row[0] > 0
        }

    def reset(self) -> None:
        """Forget all gradients."""
        self._sums = None

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last call of `get_stats`; empty if there are none."""
        return {} if self._sums is None else self._sums.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The sums of as many parameters.
            device: Where the gradients will be; where the state is if omitted.
        """
        self._sums = None
        if state:
            device = next(iter(state.values())).device if device is None else device
            self._sums = _RunningSums(self.number_layers, device)
            self._sums.load_state_dict(state)


class GradientTracker(Callback):
    """Sum up the gradients of each epoch, as the optimizer receives them.

    The base of trackers that write somewhere; `tracker` holds the statistics.

    Args:
        keep_bias: Whether to look at parameters with ``bias`` in their names too.

    Attributes:
        layer_names: The names of the parameters that are looked at.
        tracker: The statistics of the epoch under way; None before a training.
    """

    def __init__(self, keep_bias: bool = False) -> None:
        self.keep_bias = keep_bias
        self.layer_names: list[str] = []
        self.tracker: WeightsGradientsStatsTracker | None = None
        self._loaded: Mapping[str, Any] | None = None

    @property
    def number_layers(self) -> int:
        """How many parameters are looked at."""
        return len(self.layer_names)

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Choose the parameters and start anew, unless this training resumes inside an epoch."""
        tracked = {
            name: parameter
            for name, parameter in self.model.network.named_parameters()
            if is_tracked(parameter, name, self.keep_bias)
        }
        self.layer_names = list(tracked)
        self.tracker = WeightsGradientsStatsTracker(self.number_layers)
        loaded, self._loaded = self._loaded, None
        if loaded is not None and list(loaded["layer_names"]) == self.layer_names:  # else of others
            device = next((one.device for one in tracked.values()), None)
            self.tracker.load_state_dict(loaded["sums"], device)

    def on_optimizer_step_end(self, step: int) -> None:
        """Take in the gradients of the step."""
        if self.tracker is not None:
            parameters = dict(self.model.network.named_parameters())
            self.tracker.batch_statistic_upgrade(
                (name, parameters[name]) for name in self.layer_names
            )

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Write the statistics of the epoch."""
        self._on_epoch_end_log(epoch_number, logs)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch under way."""
        sums = {} if self.tracker is None else self.tracker.state_dict()
        return {"layer_names": self.layer_names, "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the sums of the training that is resumed."""
        check_keys(self, state, ["layer_names", "sums"])
        self._loaded = state

    def _on_epoch_end_log(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Write the statistics of the epoch."""


class TensorBoardGradientTracker(GradientTracker):
    """Write statistics of the gradients of each epoch for TensorBoard.

    For each parameter, the chart ``gradient_distributions/<name>`` has ``mean``,
    ``mean_std_dev_up`` and ``mean_std_dev_down`` of the mean absolute gradient, and
    ``other_gradient_stats/<name>`` has ``min`` and ``max``. A parameter that had no gradient in
    the epoch is left out. The writer is left open.

    Args:
        writer: A ``SummaryWriter``, or the directory for a new one.
        keep_bias: Whether to look at parameters with ``bias`` in their names too.

    Raises:
        MissingDependencyError: If a directory is given and tensorboard is not installed.
    """

    def __init__(self, writer: ScalarWriter | str | Path, keep_bias: bool = False) -> None:
        super().__init__(keep_bias)
        self.writer = open_writer("TensorBoardGradientTracker", writer)

    def _on_epoch_end_log(self, epoch_number: int, logs: dict[str, Any]) -> None:
        if self.tracker is None or not is_first_rank():
            return
        charts = {
            "gradient_distributions": ("mean", "mean_std_dev_up", "mean_std_dev_down"),
            "other_gradient_stats": ("min", "max"),
        }
        for name, stats in self.tracker.get_stats(self.layer_names).items():
            for chart, keys in charts.items():
                for key in keys:
                    self.writer.add_scalars(f"{chart}/{name}", {key: stats[key]}, epoch_number)


class _RunningSums:
    """Counts, running means and extremes of several parameters, on one device."""

    def __init__(self, count: int, device: torch.device) -> None:
        kind = torch.float32 if device.type == "mps" else torch.float64
        self._device, self._dtype = device, kind
        self._count = torch.zeros(count, dtype=kind, device=device)
        self._mean = torch.zeros_like(self._count)
        self._m2 = torch.zeros_like(self._count)
        self._low = torch.full((count, 2), math.inf, dtype=kind, device=device)
        self._high = torch.full((count, 2), -math.inf, dtype=kind, device=device)

    def update(self, statistics: Sequence[Tensor | None]) -> None:
        """Take in the results of `gradient_statistics`, None for a missing one."""
        rows = torch.stack([self._row(values) for values in statistics])
        present, mean, low, high = rows[:, 0], rows[:, 1], rows[:, [3, 4]], rows[:, [5, 6]]
        self._count += present
        difference = present * (mean - self._mean)
        self._mean += difference / self._count.clamp(min=1)
        self._m2 += difference * (mean - self._mean)
        seen = present.bool().unsqueeze(1)
        self._low = torch.where(seen, torch.minimum(self._low, low), self._low)
        self._high = torch.where(seen, torch.maximum(self._high, high), self._high)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all sums by name."""
        return {name: getattr(self, f"_{name}") for name in _SUMS}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        for name in _SUMS:
            getattr(self, f"_{name}").copy_(state[name])

    def read(self) -> list[list[float]]:
        """Return count, mean, m2, min, abs_min, max and abs_max of each parameter."""
        sums = torch.stack([self._count, self._mean, self._m2], dim=1)
        rows: list[list[float]] = torch.cat([sums, self._low, self._high], dim=1).tolist()
        return rows

    def _row(self, values: Tensor | None) -> Tensor:
        """Return 1 and the statistics, or zeros; nothing is copied from the host."""
        if values is None:
            return torch.zeros(7, dtype=self._dtype, device=self._device)
        values = values.to(self._device, self._dtype, non_blocking=True)
        return torch.cat([torch.ones_like(values[:1]), values])


def _summary(row: Sequence[float]) -> dict[str, float]:
    count, mean, m2, low, absolute_low, high, absolute_high = row
    deviation = math.sqrt(m2 / (count - 1)) if count > 1 else 0.0
    return {
        "mean": mean,
        "mean_std_dev_up": mean + deviation,
        "mean_std_dev_down": mean - deviation,
        "min": low,
        "abs_min": absolute_low,
        "max": high,
        "abs_max": absolute_high,
    }
