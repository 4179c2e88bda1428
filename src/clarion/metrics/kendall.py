"""Kendall's tau: how far two rankings agree."""

from typing import Any

import torch
from torch import Tensor

from clarion.errors import DataError
from clarion.metrics.base import StreamingMetric, accumulation_dtype
from clarion.metrics.registry import register_metric_class
from clarion.metrics.rows import RowMetric
from clarion.metrics.shapes import NARROW, aligned

__all__ = ["KendallTau", "KendallTauPerRow"]


@register_metric_class("kendall_tau", "kendall")
class KendallTau(RowMetric):
    """Kendall's tau-b between all predictions and all targets, from -1 to 1.

    Names: ``"kendall_tau"``, ``"kendall"``; in the logs ``kendall_tau``. ``y_pred`` and ``y_true``
    have one value per example, shape (N,) or (N, 1). All of them are kept on the device until the
    next reset, 8 bytes per row of float32; ranking N of them takes some N log(N)^2 steps. It is nan
    if either side is constant or a value is nan.

    Source:
        Kendall 1945, Biometrika 33(3), the treatment of ties in ranking problems; counted as in
        Knight 1966, Journal of the American Statistical Association 61(314).
    """

    def __init__(self) -> None:
        super().__init__()
        self.__name__ = "kendall_tau"

    def select(self, y_pred: Any, y_true: Any) -> tuple[Tensor, Tensor]:
        """Return predictions and targets, shape (N,) both."""
        if y_pred.ndim > 1 and y_pred[0].numel() > 1:
            raise DataError(
                f"KendallTau takes one value per example, shape (N,); y_pred has "
                f"{tuple(y_pred.shape)}. To rank each row by itself use KendallTauPerRow."
            )
        predicted = y_pred.detach().reshape(-1)
        return predicted, aligned(y_true.detach(), predicted, y_pred)

    def conclude(self, *rows: Tensor) -> Tensor:
        """Return tau of these predictions and targets, shape ()."""
        return _tau_b(*rows)


@register_metric_class("kendall_tau_per_row", "kendall_per_row")
class KendallTauPerRow(StreamingMetric):
    """The mean over rows of Kendall's tau-b between a row of predictions and its targets.

    Each row is a ranking of its own: the sentences of a story, the answers to a question. Names:
    ``"kendall_tau_per_row"``, ``"kendall_per_row"``; in the logs ``kendall_tau``. ``y_pred`` and
    ``y_true`` have shape (N, D). Rows in which nothing can be ranked, because fewer than two
    positions count or all are tied on one side, are left out. It is nan if a value
    that counts is nan. Comparing pairs takes N * D * D.

    Args:
        ignore_index: Positions whose target has this value do not count: they pad a short row.

    Source:
        Kendall 1945, Biometrika 33(3), the treatment of ties in ranking problems.
    """

    adds_up = True

    def __init__(self, *, ignore_index: int = -100) -> None:
        super().__init__()
        self.__name__ = "kendall_tau"
        self.ignore_index = ignore_index

    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return the sum of the taus and the number of rows that have one, shape (2,)."""
        if y_pred.ndim != 2 or y_pred.shape != y_true.shape:
            raise DataError(
                f"KendallTauPerRow takes predictions and targets of one shape (N, D); y_pred has "
                f"{tuple(y_pred.shape)}, y_true {tuple(y_true.shape)}."
            )
        if y_true.dtype in NARROW:
            y_true = y_true.long()
        counts = y_true != self.ignore_index
        pairs = counts.unsqueeze(1) & counts.unsqueeze(2)
        one, other = _order(y_pred.detach()), _order(y_true)
        dtype = accumulation_dtype(y_pred.device)
        agreement = torch.where(pairs, one * other, 0).sum((1, 2), dtype=dtype)
        untied_pred = torch.where(pairs, one.abs(), 0).sum((1, 2), dtype=dtype)
        untied_true = torch.where(pairs, other.abs(), 0).sum((1, 2), dtype=dtype)
        ranked = (untied_pred > 0) & (untied_true > 0)
        tau = agreement / (untied_pred * untied_true).sqrt()
        total = torch.where(ranked, tau, 0.0).sum()
        # A value that is nan compares as if it were tied with all others.
        broken = counts & (torch.isnan(y_pred.detach()) | torch.isnan(y_true))
        total = torch.where(broken.any(), torch.nan, total)
        return torch.stack([total, ranked.sum(dtype=dtype)])

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the mean tau, shape (); nan if no row had one."""
        return sums[0] / sums[1]


def _order(values: Tensor) -> Tensor:
    """Return for each pair of a row which is the greater: 1, 0 or -1, shape (N, D, D)."""
    first, second = values.unsqueeze(2), values.unsqueeze(1)
    return (first > second).to(torch.int8) - (first < second).to(torch.int8)


def _tau_b(one: Tensor, other: Tensor) -> Tensor:
    dtype = accumulation_dtype(one.device)
    size = len(one)
    pairs = size * (size - 1) / 2
    x, y = _ranks(one), _ranks(other)
    both = x * size + y
    y_by_x = y[both.argsort()]
    tied_x, tied_y, tied_both = (_tied_pairs(keys, dtype) for keys in (x, y, both))
    discordant = _inversions(y_by_x).to(dtype)
    agreement = pairs - tied_x - tied_y + tied_both - 2 * discordant
    tau = agreement / ((pairs - tied_x) * (pairs - tied_y)).sqrt()
    return torch.where(torch.isnan(one).any() | torch.isnan(other).any(), torch.nan, tau)


def _ranks(values: Tensor) -> Tensor:
    """Return how many values are smaller than each; equal values get equal ranks."""
    return torch.searchsorted(values.sort().values, values)


def _tied_pairs(keys: Tensor, dtype: torch.dtype) -> Tensor:
    ordered = keys.sort().values
    first = torch.searchsorted(ordered, ordered)
    last = torch.searchsorted(ordered, ordered, right=True)
    return (last - first - 1).sum(dtype=dtype) / 2


def _inversions(ranks: Tensor) -> Tensor:
    """Return how many pairs stand in descending order, by merging sorted blocks, widths doubling.

    Args:
        ranks: Integers, shape (N,).
    """
    width = 1
    size = 1 << max(len(ranks) - 1, 1).bit_length()
    # Padding stands last and is greater than all: it makes no inversions.
    blocks = torch.nn.functional.pad(ranks, (0, size - len(ranks)), value=len(ranks))
    total = torch.zeros((), dtype=torch.int64, device=ranks.device)
    while width < size:
        blocks = blocks.reshape(-1, 2, width)
        left, right = blocks[:, 0].contiguous(), blocks[:, 1].contiguous()
        total = total + torch.searchsorted(right, left).sum()
        blocks = blocks.reshape(-1, 2 * width).sort(dim=1).values
        width *= 2
    return total
