"""Errors of real-valued predictions, as sums over all entries."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from clarion.metrics.base import StreamingMetric, accumulation_dtype
from clarion.metrics.registry import register_metric_class
from clarion.metrics.shapes import aligned

__all__ = ["R2", "MeanAbsoluteError", "MeanSquaredError", "RootMeanSquaredError"]


class _MeanError(StreamingMetric):
    """The mean over all entries of an error of each."""

    @abstractmethod
    def _error(self, difference: Tensor) -> Tensor:
        """Return the error of each difference."""

    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return the sum of the errors and the number of entries, shape (2,)."""
        difference = _difference(y_pred, y_true)
        total = self._error(difference).sum()
        return torch.stack([total, torch.full_like(total, difference.numel())])

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the mean error, shape ()."""
        return sums[0] / sums[1]


@register_metric_class("mean_absolute_error")
class MeanAbsoluteError(_MeanError):
    """The mean absolute error over all entries.

    Name: ``"mean_absolute_error"``; in the logs ``mae``. The name ``"mae"`` alone gives
    ``torch.nn.functional.l1_loss``, which is a loss too. Predictions and targets have one shape,
    but for dimensions of 1.
    """

    adds_up = True

    def __init__(self) -> None:
        super().__init__()
        self.__name__ = "mae"

    def _error(self, difference: Tensor) -> Tensor:
        return difference.abs()


@register_metric_class("mean_squared_error")
class MeanSquaredError(_MeanError):
    """The mean squared error over all entries.

    Name: ``"mean_squared_error"``; in the logs ``mse``. The name ``"mse"`` alone gives
    ``torch.nn.functional.mse_loss``, which is a loss too. Predictions and targets have one shape,
    but for dimensions of 1.
    """

    adds_up = True

    def __init__(self) -> None:
        super().__init__()
        self.__name__ = "mse"

    def _error(self, difference: Tensor) -> Tensor:
        return difference.square()


@register_metric_class("rmse", "root_mean_squared_error")
class RootMeanSquaredError(_MeanError):
    """The square root of the mean squared error over all entries.

    Names: ``"rmse"``, ``"root_mean_squared_error"``; in the logs ``rmse``. Predictions and targets
    have one shape, but for dimensions of 1.
    """

    adds_up = True

    def __init__(self) -> None:
        super().__init__()
        self.__name__ = "rmse"

    def _error(self, difference: Tensor) -> Tensor:
        return difference.square()

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the root of the mean error, shape ()."""
        return (sums[0] / sums[1]).sqrt()


@register_metric_class("r2", "r2_score")
class R2(StreamingMetric):
    """The coefficient of determination: the share of the target's variance that is explained.

    Names: ``"r2"``, ``"r2_score"``; in the logs ``r2``. Predictions and targets have one shape
    (N, *), but for dimensions of 1. Of several columns it is the plain mean over columns; a column
    whose target is constant counts 1 if it is met exactly, else 0; fewer than two rows give nan.

    The variance comes from sums of squares in float64, less exact the farther the mean of the
    target lies from 0: some 9 digits where it is 1000 standard deviations away.

    Source:
        1 - SS_res / SS_tot, with the conventions of ``sklearn.metrics.r2_score``.
    """

    adds_up = True

    def __init__(self) -> None:
        super().__init__()
        self.__name__ = "r2"

    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return per column: squared residuals, targets, squared targets, rows; shape (4, D)."""
        residuals = _columns(_difference(y_pred, y_true))
        targets = _columns(y_true.to(residuals.dtype))
        rows = torch.full_like(residuals[:1], len(residuals)).sum(0) if len(residuals) else 0
        return torch.stack(
            [
                residuals.square().sum(0),
                targets.sum(0),
                targets.square().sum(0),
                torch.zeros_like(residuals.sum(0)) + rows,
            ]
        )

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the mean over columns, shape ()."""
        unexplained, total, squares, rows = sums
        variation = squares - total.square() / rows
        # Rounding leaves something of a constant's variation: less than this is none.
        constant = variation <= squares * 1e-15
        exact = torch.where(unexplained == 0, 1.0, 0.0).to(sums.dtype)
        value = torch.where(constant, exact, 1 - unexplained / variation)
        return torch.where(rows > 1, value, torch.nan).mean()


def _difference(y_pred: Tensor, y_true: Tensor) -> Tensor:
    dtype = accumulation_dtype(y_pred.device)
    return y_pred.detach().to(dtype) - aligned(y_true, y_pred, y_pred).to(dtype)


def _columns(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1) if values.numel() else values.reshape(len(values), 1)
