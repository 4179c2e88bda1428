"""Precision, recall and F-score, from counts per class."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from clarion.errors import DataError, InvalidArgumentError, StepError, quoted, suggestion
from clarion.metrics.base import StreamingMetric, accumulation_dtype
from clarion.metrics.names import Names, names_as_list
from clarion.metrics.registry import register_metric_class
from clarion.metrics.shapes import aligned, check_labels, same_but_ones, split_mask

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
        """Return true positives, predictions and targets per class, shape (3, C + 2).

        The last two columns count what is ignored, and labels that are no class.
        """
        with _determinism(self.make_deterministic):
            labels, predicted, counts, num_classes = self._read(y_pred, y_true)
            check_labels(labels, counts, num_classes)
            ignored, wrong = num_classes, num_classes + 1
            is_class = (labels >= 0) & (labels < num_classes)
            label_bins = torch.where(is_class, labels.long(), wrong)
            hit = counts & (labels == predicted)
            bins = torch.stack(
                [
                    torch.where(hit, label_bins, ignored),
                    torch.where(counts, predicted, ignored),
                    torch.where(counts, label_bins, ignored),
                ]
            )
            return _count(bins.reshape(3, -1), num_classes + 2)

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the value, shape (), or F-score, precision and recall, shape (3,).

        It is nan if a label was no class.
        """
        met, predicted, true = sums[:, :-2]
        present = (predicted + true) > 0
        if self.average == "micro":
            met, predicted, true = met.sum(), predicted.sum(), true.sum()
        weight = self.beta**2
        scores = torch.stack(
            [
                _ratio((1 + weight) * met, weight * true + predicted),
                _ratio(met, predicted),
                _ratio(met, true),
            ]
        )
        scores = self._averaged(scores, present)
        scores = torch.where(sums[2, -1] > 0, torch.nan, scores)
        return scores if self.metric is None else scores[_METRICS.index(self.metric)]

    def compute(self) -> float | list[float]:
        """Return the value as a float, or F-score, precision and recall as a list of floats.

        Raises:
            StepError: If there was no batch since the last reset; it is a ``RuntimeError``.
            DataError: If a label was no class; it is a ``ValueError``.
        """
        if self.sums is None:
            raise StepError(
                f"{type(self).__name__} has seen no batch since it was made or reset: call it, or "
                "its update, before compute."
            )
        if bool(self.sums[2, -1] > 0):
            raise DataError(
                f"{type(self).__name__}: the targets held {int(self.sums[2, -1])} labels outside "
                f"of 0 to {self.sums.shape[1] - 3}, the classes that y_pred scores."
            )
        value: float | list[float] = self.compute_tensor().tolist()
        return value

    def _read(self, y_pred: Tensor, y_true: Any) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return labels, predicted classes and what counts, in one shape; the number of classes."""
        labels, mask = split_mask(y_true)
        if same_but_ones(y_pred, labels):
            num_classes, predicted = 2, (y_pred > self.threshold).long()
        elif y_pred.ndim < 2:
            raise DataError(
                f"The predictions have shape {tuple(y_pred.shape)}, the labels "
                f"{tuple(labels.shape)}; expected the same, or scores of shape (N, C, ...)."
            )
        else:
            num_classes, predicted = y_pred.shape[1], y_pred.argmax(1)
        if self.average == "binary" and num_classes > 2:
            raise DataError(
                f'average="binary" takes one or two scores per label; y_pred has {num_classes}: '
                f"shape {tuple(y_pred.shape)}. Choose another average, or the number of a class."
            )
        labels = aligned(labels, predicted, y_pred)
        counts = labels != self.ignore_index
        if mask is not None:
            counts = counts & aligned(mask, predicted, y_pred)
        return labels, predicted, counts, num_classes

    def _averaged(self, scores: Tensor, present: Tensor) -> Tensor:
        if self.average == "micro":
            return scores
        if self.average == "macro":
            if self.absent == "zero":
                return scores.mean(1)
            return _ratio(scores.sum(1), present.sum())
        label = int(self.label)
        if not 0 <= label < scores.shape[1]:
            raise DataError(
                f"{type(self).__name__} is about class {label}, but y_pred scores "
                f"{scores.shape[1]} classes: 0 to {scores.shape[1] - 1}."
            )
        return scores[:, label]

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

    def __init__(self, **kwargs: Any) -> None:
        _refuse_beta(type(self).__name__, kwargs)
        super().__init__(metric="fscore", **kwargs)


@register_metric_class("precision")
class Precision(FBeta):
    """The precision. Name: ``"precision"``; in the logs ``precision_macro``.

    Args:
        **kwargs: See `FBeta`: all but ``metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metric="precision", **kwargs)


@register_metric_class("recall")
class Recall(FBeta):
    """The recall. Name: ``"recall"``; in the logs ``recall_macro``.

    Args:
        **kwargs: See `FBeta`: all but ``metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metric="recall", **kwargs)


@register_metric_class("bin_f1", "binary_f1")
class BinaryF1(FBeta):
    """The F-score of one class of two. Names: ``"bin_f1"``, ``"binary_f1"``; logs ``bin_fscore``.

    Args:
        **kwargs: See `FBeta`: all but ``metric``, ``average`` and ``beta``.
    """

    def __init__(self, **kwargs: Any) -> None:
        _refuse_beta(type(self).__name__, kwargs)
        super().__init__(metric="fscore", average="binary", **{"names": "bin_fscore", **kwargs})


@register_metric_class("bin_precision", "binary_precision")
class BinaryPrecision(FBeta):
    """The precision of one class of two. Names: ``"bin_precision"``, ``"binary_precision"``.

    Args:
        **kwargs: See `FBeta`: all but ``metric`` and ``average``.
    """

    def __init__(self, **kwargs: Any) -> None:
        names = {"names": "bin_precision", **kwargs}
        super().__init__(metric="precision", average="binary", **names)


@register_metric_class("bin_recall", "binary_recall")
class BinaryRecall(FBeta):
    """The recall of one class of two. Names: ``"bin_recall"``, ``"binary_recall"``.

    Args:
        **kwargs: See `FBeta`: all but ``metric`` and ``average``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metric="recall", average="binary", **{"names": "bin_recall", **kwargs})


def _count(bins: Tensor, num_bins: int) -> Tensor:
    """Return how often each bin occurs in each row; index_add, as bincount reads on the host."""
    rows = len(bins)
    offsets = torch.arange(rows, device=bins.device).unsqueeze(1) * num_bins
    flat = (bins + offsets).reshape(-1)
    dtype = accumulation_dtype(bins.device)
    zeros = torch.zeros(rows * num_bins, dtype=dtype, device=bins.device)
    return zeros.index_add(0, flat, torch.ones_like(flat, dtype=dtype)).reshape(rows, num_bins)


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
