"""The area under the ROC curve, over all rows of a pass."""

from typing import Any

import torch
from torch import Tensor

from clarion.errors import DataError
from clarion.metrics.base import accumulation_dtype
from clarion.metrics.registry import register_metric_class
from clarion.metrics.rows import RowMetric
from clarion.metrics.shapes import NARROW, check_labels, same_but_ones

__all__ = ["AUROC"]

_IGNORED = -1


@register_metric_class("auroc", "roc_auc")
class AUROC(RowMetric):
    """The chance that a positive example scores above a negative one; ties count half.

    Names: ``"auroc"``, ``"roc_auc"``; in the logs ``auroc``. A value from 0 to 1, exact, not
    binned: all scores are kept on the device until the next reset, in the dtype they have, so
    prefer it as an epoch metric. Of float32 scores a row costs 5 bytes with one per label, 6 with
    two, 4 C + 2 with C classes, 5 L with L labels; up to twice that while the value is computed
    or pieces are joined.

    With one score per label (any scale), or two per label (of which the difference counts), it is
    about class 1. With C > 2 scores of shape (N, C, *) it is the plain mean over classes of each
    against the rest; scores that are not probabilities become so by softmax. With 0 or 1 in the
    shape of the scores (N, L), L > 1, it is the plain mean over labels. Classes without a positive
    or without a negative example are left out; if none is left it is nan.

    Args:
        ignore_index: Labels of this value do not count.

    Source:
        Hanley and McNeil 1982, Radiology 143(1): the area equals the Mann-Whitney statistic. Mean
        over classes: ``sklearn.metrics.roc_auc_score(average="macro", multi_class="ovr")``.
    """

    def __init__(self, *, ignore_index: int = -100) -> None:
        super().__init__()
        self.__name__ = "auroc"
        self.ignore_index = ignore_index

    def select(self, y_pred: Any, y_true: Any) -> tuple[Tensor, Tensor]:
        """Return scores, shape (N, C), and labels as small integers, shape (N, 1) or (N, C)."""
        scores = y_pred.detach()
        if y_true.dtype in NARROW:
            y_true = y_true.long()
        counts = y_true != self.ignore_index
        if same_but_ones(scores, y_true):
            check_labels(y_true, counts, 2)
            width = y_true.shape[1] if y_true.ndim == 2 else 1
            labels = torch.where(counts, y_true, _IGNORED).reshape(-1, width)
            return scores.reshape(-1, width), labels.to(torch.int8)
        if scores.ndim < 2 or (scores.shape[0], *scores.shape[2:]) != tuple(y_true.shape):
            raise DataError(
                f"AUROC takes scores of shape (N, C, ...) and labels of shape (N, ...), or both of "
                f"the same shape; y_pred has {tuple(scores.shape)}, y_true {tuple(y_true.shape)}."
            )
        num_classes = scores.shape[1]
        check_labels(y_true, counts, num_classes)
        scores = scores.movedim(1, -1).reshape(-1, num_classes)
        labels = torch.where(counts, y_true, _IGNORED).reshape(-1, 1)
        if num_classes == 2:
            scores = scores[:, 1:] - scores[:, :1]
        return scores, labels.to(torch.int16 if num_classes < 2**15 else torch.int32)

    def conclude(self, *rows: Tensor) -> Tensor:
        """Return the mean area of these scores and labels, shape ()."""
        scores, labels = rows
        rounding = torch.finfo(scores.dtype).eps if scores.is_floating_point() else 0.0
        scores = scores.to(accumulation_dtype(scores.device))
        counts = labels != _IGNORED
        if labels.shape[1] != scores.shape[1]:  # one label per row for many classes
            scores = _probabilities(scores, counts, max(rounding, 1e-3))
            counts = counts.expand_as(scores)
            positive = labels == torch.arange(scores.shape[1], device=labels.device)
        else:
            positive = labels == 1
        return _areas(scores, positive & counts, counts).nanmean()


def _probabilities(scores: Tensor, counts: Tensor, tolerance: float) -> Tensor:
    """Return the scores if all rows are probabilities already, else their softmax."""
    sums_to_one = (scores.sum(1, keepdim=True) - 1).abs() < tolerance
    fine = ((scores >= 0).all(1, keepdim=True) & sums_to_one) | ~counts
    return torch.where(fine.all(), scores, scores.softmax(1))


def _areas(scores: Tensor, positive: Tensor, counts: Tensor) -> Tensor:
    """Return the area of each column, nan where one of the two kinds is missing."""
    # Ranked last, what does not count has no effect on the ranks of what does; where it ties with
    # scores that are infinite, it is left out of those that are not above them.
    columns = torch.where(counts, scores, torch.inf).T.contiguous()
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns)
    not_above = torch.searchsorted(ordered, columns, right=True)
    not_above = torch.minimum(not_above, counts.sum(0).unsqueeze(1))
    ranks = (below + not_above + 1).to(scores.dtype) / 2
    positive = positive.T
    num_positive = positive.sum(1, dtype=scores.dtype)
    num_negative = counts.sum(0, dtype=scores.dtype) - num_positive
    rank_sum = torch.where(positive, ranks, 0.0).sum(1)
    pairs = num_positive * num_negative
    area = (rank_sum - num_positive * (num_positive + 1) / 2) / pairs
    # A score that is nan has no rank.
    return torch.where(torch.isnan(columns).any(1), torch.nan, area)
