"""Accuracy in percent: of the best class, of the k best, and of a threshold."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from clarion.errors import DataError, InvalidArgumentError, quoted, suggestion
from clarion.metrics.base import StreamingMetric, accumulation_dtype
from clarion.metrics.registry import do_register_metric_class, register_metric_class
from clarion.metrics.shapes import NARROW, aligned, best_class, is_readable
from clarion.metrics.weighting import elements, register_target_weight, valid_targets

__all__ = [
    "Accuracy",
    "BatchMetric",
    "BinaryAccuracy",
    "Reduction",
    "TopKAccuracy",
    "acc",
    "bin_acc",
    "top1",
    "topk",
]

Reduction: TypeAlias = Literal["none", "mean", "sum"]
_REDUCTIONS = ("none", "mean", "sum")


def acc(
    y_pred: Tensor, y_true: Tensor, *, ignore_index: int = -100, reduction: Reduction = "mean"
) -> Tensor:
    """Return the percentage of targets that have the highest score.

    Args:
        y_pred: Scores, higher is better. Shape (N, C, *).
        y_true: Class indices. Shape (N, *), integer.
        ignore_index: Targets of this value do not count.
        reduction: ``"mean"`` over the targets that count, nan if there are none; ``"sum"``: 100
            for each match; ``"none"``: 100 or 0 for each target, 0 where it does not count.

    Returns:
        Percentage in [0, 100], float32, on the device of ``y_pred``. Shape (), or that of
        ``y_true`` with ``reduction="none"``.

    Raises:
        DataError: If the shapes do not fit, or there is one score and a label other than 0; it is
            a ``ValueError``.

    Example:
        >>> acc(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(50.)
    """
    _check_reduction(reduction)
    return _percentage(*_best_matches(y_pred, y_true, ignore_index), reduction)


def topk(
    y_pred: Tensor,
    y_true: Tensor,
    k: int,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the percentage of targets that are among the k best scores.

    Ties go to whichever class ``torch.topk`` keeps. Other arguments: see `acc`.

    Args:
        y_pred: Scores, higher is better. Shape (N, C, *).
        y_true: Class indices. Shape (N, *), integer.
        k: How many scores to look at, 1 <= k <= C.
        ignore_index: See `acc`.
        reduction: See `acc`.

    Returns:
        Percentage in [0, 100]; see `acc`.

    Raises:
        DataError: If the shapes do not fit, or k is greater than C; it is a ``ValueError``.

    Source:
        Russakovsky et al. 2015, arXiv:1409.0575, section 4 (top-5 error).

    Example:
        >>> topk(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]), k=2)
        tensor(100.)
    """
    _check_reduction(reduction)
    return _percentage(*_topk_matches(y_pred, y_true, k, ignore_index), reduction)


def top1(
    y_pred: Tensor, y_true: Tensor, *, ignore_index: int = -100, reduction: Reduction = "mean"
) -> Tensor:
    """Return the same as `acc`."""
    return acc(y_pred, y_true, ignore_index=ignore_index, reduction=reduction)


def bin_acc(
    y_pred: Tensor, y_true: Tensor, *, threshold: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Return the percentage of scores on the right side of a threshold.

    Args:
        y_pred: Scores, higher for class 1. Shape (N, *).
        y_true: 0 or 1. Shape (N, *), any dtype.
        threshold: Scores above it are class 1: 0 suits logits, 0.5 suits probabilities.
        reduction: See `acc`.

    Returns:
        Percentage in [0, 100]; see `acc`.

    Raises:
        DataError: If the shapes do not fit, or the target on a CPU holds anything else; it is a
            ``ValueError``.

    Example:
        >>> bin_acc(torch.tensor([2.0, -1.0]), torch.tensor([1, 1]))
        tensor(50.)
    """
    _check_reduction(reduction)
    return _percentage(*_threshold_matches(y_pred, y_true, threshold), reduction)


class BatchMetric(ABC, nn.Module):
    """A metric of one batch with a reduction.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``: see `acc`.

    Raises:
        InvalidArgumentError: If the reduction is another word; it is a ``ValueError``.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        _check_reduction(reduction)
        self.reduction: Reduction = reduction
        if reduction == "none":  # a value for each element, which no sum can give
            self.adds_up = False


class _Matches(BatchMetric, StreamingMetric):
    """How many targets were met, of how many that count."""

    @abstractmethod
    def _compare(self, y_pred: Any, y_true: Any) -> tuple[Tensor, Tensor | None]:
        """Return where targets were met, then where they count, None for everywhere."""

    def forward(self, y_pred: Any, y_true: Any) -> Tensor:
        """Add a batch and return its own percentage, reduced as asked for."""
        # Not the forward of StreamingMetric: its sums cannot tell single elements apart.
        met, counts = self._compare(y_pred, y_true)
        tallied = _tallied(met, counts)
        self._add(tallied)
        if self.reduction == "none":
            return met.float() * 100
        return self.conclude(tallied).float()

    def alone(self, y_pred: Any, y_true: Any) -> Tensor | float:
        """Return the percentage of one batch, which is not added to the sums."""
        met, counts = self._compare(y_pred, y_true)
        total = met.count_nonzero()  # a third of what a sum costs
        number = met.numel() if counts is None else counts.count_nonzero()
        if self.reduction == "sum":
            return total * 100.0
        if not is_readable(met):
            return total * 100.0 / number
        hits, of = int(total), int(number)
        return float(np.float32(hits * 100.0 / of)) if of else math.nan

    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return the numbers of targets met and counted, shape (2,)."""
        return _tallied(*self._compare(y_pred, y_true))

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the percentage, or 100 for each target met with ``reduction="sum"``."""
        met, counted = sums.unbind()
        return met * 100 if self.reduction == "sum" else met * 100 / counted


@register_metric_class("acc", "accuracy")
class Accuracy(_Matches):
    """The percentage of targets that have the highest score.

    Over an epoch it runs over all targets that count, however they were cut into batches. Names:
    ``"acc"``, ``"accuracy"``; in the logs ``acc``. Called, it returns what `acc` returns.

    Args:
        ignore_index: Targets of this value do not count.
        reduction: See `acc`. The epoch's value is the sum with ``"sum"``, else the mean.
    """

    adds_up = True

    def __init__(self, *, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.__name__ = "acc"
        self.ignore_index = ignore_index

    def _compare(self, y_pred: Any, y_true: Any) -> tuple[Tensor, Tensor | None]:
        return _best_matches(y_pred, y_true, self.ignore_index)


@register_metric_class("bin_acc", "binary_acc", "binary_accuracy")
class BinaryAccuracy(_Matches):
    """The percentage of scores on the right side of a threshold.

    Over an epoch it runs over all scores, however they were cut into batches. Names:
    ``"bin_acc"``, ``"binary_acc"``, ``"binary_accuracy"``; in the logs ``bin_acc``. Called, it
    returns what `bin_acc` returns.

    Args:
        threshold: Scores above it are class 1: 0 suits logits, 0.5 suits probabilities.
        reduction: See `acc`. The epoch's value is the sum with ``"sum"``, else the mean.
    """

    adds_up = True

    def __init__(self, *, threshold: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.__name__ = "bin_acc"
        self.threshold = threshold

    def _compare(self, y_pred: Any, y_true: Any) -> tuple[Tensor, Tensor | None]:
        return _threshold_matches(y_pred, y_true, self.threshold)


class TopKAccuracy(_Matches):
    """The percentage of targets that are among the k best scores.

    Over an epoch it runs over all targets that count, however they were cut into batches. Names:
    ``"top5"``, ``"top5_acc"``, ``"top5_accuracy"``, and so on for 1 to 10, 20, 30 to 100; in the
    logs ``top5``. Called, it returns what `topk` returns.

    Args:
        k: How many scores to look at, 1 <= k <= number of classes.
        ignore_index: Targets of this value do not count.
        reduction: See `acc`. The epoch's value is the sum with ``"sum"``, else the mean.

    Raises:
        InvalidArgumentError: If k is less than 1; it is a ``ValueError``.
    """

    adds_up = True

    def __init__(self, k: int, *, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        if k < 1:
            raise InvalidArgumentError(f"TopKAccuracy(k={k}): k is at least 1.")
        self.__name__ = f"top{k}"
        self.k = k
        self.ignore_index = ignore_index

    def _compare(self, y_pred: Any, y_true: Any) -> tuple[Tensor, Tensor | None]:
        return _topk_matches(y_pred, y_true, self.k, self.ignore_index)


def _check_reduction(reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise InvalidArgumentError(
            f'Unknown reduction "{reduction}"{suggestion(str(reduction), _REDUCTIONS) or "."} '
            f"Known: {quoted(_REDUCTIONS)}."
        )


def _best_matches(y_pred: Tensor, y_true: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    if y_pred.ndim < 2:
        raise DataError(
            f"Accuracy takes scores of shape (N, C, ...); y_pred has {tuple(y_pred.shape)}. For "
            'one score per example use "bin_acc".'
        )
    best = best_class(y_pred)
    y_true = aligned(y_true, best, y_pred)
    if y_true.dtype in NARROW:
        y_true = y_true.long()
    counts = y_true != ignore_index
    _check_several(y_pred, y_true, counts)
    met = best == y_true
    # An ignored label that is no class is met by nothing.
    return met & counts if 0 <= ignore_index < y_pred.shape[1] else met, counts


def _topk_matches(
    y_pred: Tensor, y_true: Tensor, k: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    if y_pred.ndim < 2 or y_pred.shape[1] < k:
        raise DataError(
            f"Top-{k} accuracy takes at least {k} scores per target, shape (N, C, ...) with "
            f"C >= {k}; y_pred has {tuple(y_pred.shape)}."
        )
    best = y_pred.topk(k, dim=1).indices
    y_true = aligned(y_true, best[:, 0], y_pred)
    if y_true.dtype in NARROW:
        y_true = y_true.long()
    counts = y_true != ignore_index
    _check_several(y_pred, y_true, counts)
    return (best == y_true.unsqueeze(1)).any(1) & counts, counts


def _check_several(y_pred: Tensor, y_true: Tensor, counts: Tensor) -> None:
    """Raise if there are labels of several classes and scores of one, the best whatever it is."""
    if y_pred.shape[1] == 1 and is_readable(y_true) and bool((counts & (y_true != 0)).any()):
        raise DataError(
            f"Accuracy compares the scores of classes; y_pred has {tuple(y_pred.shape)}, scores of "
            "a single one, and the target holds other classes too. For one score per example use "
            '"bin_acc", or give the network an output for each class.'
        )


def _threshold_matches(y_pred: Tensor, y_true: Tensor, threshold: float) -> tuple[Tensor, None]:
    positive = y_pred > threshold
    y_true = aligned(y_true, positive, y_pred)
    if is_readable(y_true):
        wrong = (y_true != 0) & (y_true != 1)
        if bool(wrong.any()):
            raise DataError(
                f"Binary accuracy takes targets of 0 and 1; the target holds "
                f"{y_true[wrong][0].item():g}. Turn the labels into 0 and 1, as in (y > 0).float()."
            )
    return positive == y_true, None


def _percentage(met: Tensor, counts: Tensor | None, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return met.float() * 100
    tallied = _tallied(met, counts)
    total = tallied[0] * 100
    return (total if reduction == "sum" else total / tallied[1]).float()


def _tallied(met: Tensor, counts: Tensor | None) -> Tensor:
    dtype = accumulation_dtype(met.device)
    if counts is None:
        number = met.sum(dtype=dtype)
        return torch.stack([number, torch.full_like(number, met.numel())])
    return torch.stack([met, counts]).reshape(2, -1).sum(1, dtype=dtype)


def _register_topk(k: int) -> None:
    def make() -> TopKAccuracy:
        return TopKAccuracy(k)

    do_register_metric_class(make, [f"top{k}", f"top{k}_acc", f"top{k}_accuracy"])


for _k in (*range(1, 11), *range(20, 101, 10)):
    _register_topk(_k)

register_target_weight(acc, valid_targets)
register_target_weight(top1, valid_targets)
register_target_weight(topk, valid_targets)
register_target_weight(bin_acc, elements)
