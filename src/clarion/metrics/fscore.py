"""Precision, recall and F-score, from counts per class."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from clarion.arguments import checked_arguments
from clarion.errors import DataError, InvalidArgumentError, StepError, quoted, suggestion
from clarion.metrics.base import StreamingMetric, accumulation_dtype
from clarion.metrics.names import Names, names_as_list
from clarion.metrics.registry import register_metric_class
from clarion.metrics.shapes import (
    aligned,
    best_class,
    check_labels,
    is_readable,
    same_but_ones,
    split_mask,
)

__all__ = [
    "F1",
    "Average",
    "BinaryF1",
    "BinaryPrecision",
    "BinaryRecall",
    "FBeta",
    "Precision",
    "Recall",
]

Average: TypeAlias = Literal["macro", "micro", "binary"] | int

_FEW_CLASSES = 64  # up to which all pairs of classes may be counted, in a table of up to 34 KB
_MANY_LABELS = 2**10  # from which on that takes less time
_METRICS = ("fscore", "precision", "recall")
_AVERAGES = ("binary", "micro", "macro")
_ABSENT = ("zero", "skip")


class FBeta(StreamingMetric):
    """The F-score, the precision, the recall, or all three, over everything since the last reset.

    In the logs: ``fscore_macro``, ``precision_macro``, ``recall_macro``, with the average that was
    chosen, or the label, in place of ``macro``; ``fscore_binary_1`` for ``average="binary"``.

    ``y_pred`` is scores of shape (N, C, *), or one score per label, in the shape of the labels.
    ``y_true`` is labels of shape (N, *), or a tuple ``(labels, mask)`` of two such tensors; where
    the mask is 0, nothing counts.

    Args:
        metric: ``"fscore"``, ``"precision"`` or ``"recall"``; None gives all three in this order.
        average: ``"macro"``: the plain mean over classes; ``"micro"``: from the counts of all
            classes together; ``"binary"``: for the class ``pos_label`` of two; a number: for the
            class of this number.
        beta: How many times more recall weighs than precision in the F-score, greater than 0.
        pos_label: The class that ``average="binary"`` is about.
        ignore_index: Labels of this value do not count.
        threshold: Single scores above it are class 1: 0 suits logits, 0.5 suits probabilities.
        names: Names for the logs, as many as there are values.
        make_deterministic: True makes torch raise where it would choose a nondeterministic
            operation, False lets it; None leaves torch as it is. Counts are exact either way.
        absent: What ``"macro"`` does with a class that occurs neither in the targets nor in the
            predictions: ``"zero"`` counts it as 0; ``"skip"`` leaves it out, as scikit-learn does.

    Raises:
        InvalidArgumentError: If an argument has a value that cannot work; it is a ``ValueError``.

    Source:
        van Rijsbergen 1979, Information Retrieval, chapter 7, with beta as the weight of recall:
        (1 + beta^2) P R / (beta^2 P + R). What would divide by 0 is 0.
    """

    adds_up = True

    @checked_arguments
    def __init__(
        self,
        *,
        metric: Literal["fscore", "precision", "recall"] | None = None,
        average: Average = "macro",
        beta: float = 1.0,
        pos_label: int = 1,
        ignore_index: int = -100,
        threshold: float = 0.0,
        names: Names | None = None,
        make_deterministic: bool | None = None,
        absent: Literal["zero", "skip"] = "zero",
    ) -> None:
        super().__init__()
        if metric is not None:
            _check_choice("metric", metric, _METRICS)
        if not isinstance(average, int) or isinstance(average, bool):
            _check_choice("average", average, _AVERAGES, " or the number of a class")
        _check_choice("absent", absent, _ABSENT)
        if beta <= 0:
            raise InvalidArgumentError(f"FBeta: beta is greater than 0; got {beta}.")
        if metric in ("precision", "recall") and beta != 1.0:
            warnings.warn(f"beta={beta} has no effect on the {metric}.", stacklevel=2)
        self.metric = metric
        self.average = average
        self.beta = beta
        self.label = pos_label if average == "binary" else average
        self.ignore_index = ignore_index
        self.threshold = threshold
        self.absent = absent
        self.make_deterministic = make_deterministic
        self.__name__ = self._names(names)

    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return true positives, predictions and targets per class, shape (3, C + 3).

        The classes stand in columns 1 to C; column 0 counts negative labels, the last but one
        labels beyond the last class, the last one what is ignored.
        """
        with _determinism(self.make_deterministic):
            labels, predicted, skipped, num_classes = self._read(y_pred, y_true)
            by_pair = (
                num_classes <= _FEW_CLASSES
                and labels.numel() >= _MANY_LABELS
                and not labels.is_floating_point()
            )
            count = _counted_by_pair if by_pair else _counted_by_class
            tallied = count(labels, predicted, skipped, num_classes)
        if is_readable(tallied) and bool(_num_wrong(tallied)):
            check_labels(labels, ~skipped, num_classes)
        return tallied

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the value, shape (), or F-score, precision and recall, shape (3,).

        It is nan if a label was no class.
        """
        counted = sums[:, 1:-2]
        if self.average == "micro":
            counted = counted.sum(1)
        chosen = _METRICS if self.metric is None else (self.metric,)
        values = torch.stack([self._averaged(self._score(name, counted), sums) for name in chosen])
        values = torch.where(_num_wrong(sums) > 0, torch.nan, values)
        return values if self.metric is None else values[0]

    def compute(self) -> float | list[float]:
        """Return the value as a float, or F-score, precision and recall as a list of floats.

        Raises:
            StepError: If there was no batch since the last reset; it is a ``RuntimeError``.
            DataError: If a label was no class; it is a ``ValueError``.
        """
        sums = self.sums
        if sums is None:
            raise StepError(
                f"{type(self).__name__} has seen no batch since it was made or reset: call it, or "
                "its update, before compute."
            )
        wrong = int(_num_wrong(sums))
        if wrong:
            raise DataError(
                f"{type(self).__name__}: the targets held {wrong} labels outside of 0 to "
                f"{sums.shape[1] - 4}, the classes that y_pred scores."
            )
        value: float | list[float] = self.compute_tensor().tolist()
        return value

    def _read(self, y_pred: Tensor, y_true: Any) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return labels, predicted classes and what is skipped, in one shape; how many classes."""
        labels, mask = split_mask(y_true)
        if same_but_ones(y_pred, labels):
            num_classes, predicted = 2, (y_pred > self.threshold).long()
        elif y_pred.ndim < 2:
            raise DataError(
                f"The predictions have shape {tuple(y_pred.shape)}, the labels "
                f"{tuple(labels.shape)}; expected the same, or scores of shape (N, C, ...)."
            )
        else:
            num_classes, predicted = y_pred.shape[1], best_class(y_pred)
        if self.average == "binary" and num_classes > 2:
            raise DataError(
                f'average="binary" takes one or two scores per label; y_pred has {num_classes}: '
                f"shape {tuple(y_pred.shape)}. Choose another average, or the number of a class."
            )
        labels = aligned(labels, predicted, y_pred)
        skipped = labels == self.ignore_index
        if mask is not None:
            skipped = skipped | ~aligned(mask, predicted, y_pred)
        return labels, predicted, skipped, num_classes

    def _score(self, metric: str, counted: Tensor) -> Tensor:
        met, predicted, true = counted.unbind()
        if metric == "precision":
            return _ratio(met, predicted)
        if metric == "recall":
            return _ratio(met, true)
        weight = self.beta**2
        return _ratio((1 + weight) * met, weight * true + predicted)

    def _averaged(self, scores: Tensor, sums: Tensor) -> Tensor:
        if self.average == "micro":
            return scores
        if self.average == "macro":
            if self.absent == "zero":
                return scores.mean()
            present = sums[1:, 1:-2].sum(0) > 0
            return _ratio(scores.sum(), present.sum())
        label = int(self.label)
        if not 0 <= label < len(scores):
            raise DataError(
                f"{type(self).__name__} is about class {label}, but y_pred scores {len(scores)} "
                f"classes: 0 to {len(scores) - 1}."
            )
        return scores[label]

    def _names(self, names: Names | None) -> Names:
        suffix = f"_{self.average}" + (f"_{self.label}" if self.average == "binary" else "")
        own: Names = [metric + suffix for metric in _METRICS]
        if self.metric is not None:
            own = self.metric + suffix
        if names is not None and len(names_as_list(names)) != len(names_as_list(own)):
            raise InvalidArgumentError(
                f"{type(self).__name__}(names={names!r}): expected one name for each of "
                f"{quoted(names_as_list(own))}."
            )
        return own if names is None else names


@register_metric_class("f1", "f1_score")
class F1(FBeta):
    """The F-score with beta 1. Name: ``"f1"``; in the logs ``fscore_macro``.

    Args:
        **kwargs: See `FBeta`: all but ``metric`` and ``beta``.
    """

    adds_up = True

    def __init__(self, **kwargs: Any) -> None:
        _refuse_beta(type(self).__name__, kwargs)
        super().__init__(metric="fscore", **kwargs)


@register_metric_class("precision")
class Precision(FBeta):
    """The precision. Name: ``"precision"``; in the logs ``precision_macro``.

    Args:
        **kwargs: See `FBeta`: all but ``metric``.
    """

    adds_up = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metric="precision", **kwargs)


@register_metric_class("recall")
class Recall(FBeta):
    """The recall. Name: ``"recall"``; in the logs ``recall_macro``.

    Args:
        **kwargs: See `FBeta`: all but ``metric``.
    """

    adds_up = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metric="recall", **kwargs)


@register_metric_class("bin_f1", "binary_f1")
class BinaryF1(FBeta):
    """The F-score of one class of two. Names: ``"bin_f1"``, ``"binary_f1"``; logs ``bin_fscore``.

    Args:
        **kwargs: See `FBeta`: all but ``metric``, ``average`` and ``beta``.
    """

    adds_up = True

    def __init__(self, **kwargs: Any) -> None:
        _refuse_beta(type(self).__name__, kwargs)
        super().__init__(metric="fscore", average="binary", **{"names": "bin_fscore", **kwargs})


@register_metric_class("bin_precision", "binary_precision")
class BinaryPrecision(FBeta):
    """The precision of one class of two. Names: ``"bin_precision"``, ``"binary_precision"``.

    Args:
        **kwargs: See `FBeta`: all but ``metric`` and ``average``.
    """

    adds_up = True

    def __init__(self, **kwargs: Any) -> None:
        names = {"names": "bin_precision", **kwargs}
        super().__init__(metric="precision", average="binary", **names)


@register_metric_class("bin_recall", "binary_recall")
class BinaryRecall(FBeta):
    """The recall of one class of two. Names: ``"bin_recall"``, ``"binary_recall"``.

    Args:
        **kwargs: See `FBeta`: all but ``metric`` and ``average``.
    """

    adds_up = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metric="recall", average="binary", **{"names": "bin_recall", **kwargs})


def _counted_by_pair(
    labels: Tensor, predicted: Tensor, skipped: Tensor, num_classes: int
) -> Tensor:
    """Return what `_counted_by_class` returns, of whole labels and a table of all pairs.

    It takes a third of the operations, and as many bins as there are pairs of classes.
    """
    pairs = torch.add(predicted, labels.clamp(-1, num_classes).long(), alpha=num_classes)
    num_pairs = (num_classes + 2) * num_classes
    pairs = (pairs + num_classes).masked_fill(skipped, num_pairs)
    table = _count(pairs, num_pairs + 1)[:-1].reshape(num_classes + 2, num_classes)
    by_label, by_prediction = table.sum(1), table.sum(0)
    tallied = by_label.new_zeros(3, num_classes + 3)
    tallied[0, 1:-2] = table[1:-1].diagonal()
    tallied[1, 1:-2] = by_prediction
    tallied[2, :-1] = by_label
    tallied[:, -1] = pairs.numel() - tallied.sum(1)
    return tallied


def _counted_by_class(
    labels: Tensor, predicted: Tensor, skipped: Tensor, num_classes: int
) -> Tensor:
    num_bins, ignored = num_classes + 3, num_classes + 2
    classes = labels.long()
    if labels.is_floating_point():  # what is between two classes is none
        classes = torch.where(classes == labels, classes, num_classes)
    true_bins = classes.clamp(-1, num_classes) + 1
    missed = (labels != predicted) | skipped
    bins = [
        true_bins.masked_fill(missed, ignored),
        (predicted + (num_bins + 1)).masked_fill(skipped, ignored + num_bins),
        (true_bins + 2 * num_bins).masked_fill(skipped, ignored + 2 * num_bins),
    ]
    return _count(torch.stack(bins), 3 * num_bins).reshape(3, num_bins)


def _count(bins: Tensor, num_bins: int) -> Tensor:
    """Return how often each bin occurs; by index_add, as bincount reads on the host."""
    flat = bins.reshape(-1)
    dtype = accumulation_dtype(flat.device)
    zeros = torch.zeros(num_bins, dtype=dtype, device=flat.device)
    return zeros.index_add_(0, flat, torch.ones_like(flat, dtype=dtype))


def _num_wrong(sums: Tensor) -> Tensor:
    return sums[2, 0] + sums[2, -2]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0.0)


@contextmanager
def _determinism(wanted: bool | None) -> Iterator[None]:
    if wanted is None:
        yield
        return
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error" if wanted else "default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _check_choice(argument: str, value: Any, known: Sequence[str], more: str = "") -> None:
    if value not in known:
        raise InvalidArgumentError(
            f'FBeta: unknown {argument} "{value}"{suggestion(str(value), known) or "."} '
            f"Known: {quoted(known)}{more}."
        )


def _refuse_beta(name: str, kwargs: dict[str, Any]) -> None:
    if "beta" in kwargs:
        raise InvalidArgumentError(f"{name} has no beta; use FBeta(metric='fscore', beta=...).")
