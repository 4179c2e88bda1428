"""Outputs on the scale that losses and metrics expect: scores, or probabilities."""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from clarion.metrics.accuracy import BinaryAccuracy, bin_acc
from clarion.metrics.broadcasting import watching_broadcasts
from clarion.metrics.fscore import BinaryF1, BinaryPrecision, BinaryRecall
from clarion.metrics.shapes import is_readable

__all__ = ["check_scale", "first_look_of"]

_ENOUGH_ROWS = 2
_CLOSE = 1e-4


def check_scale(network: nn.Module, losses: Sequence[Any], metrics: Sequence[Any]) -> bool:
    """Warn of a last layer that does not go with a loss or a metric.

    Args:
        network: The network; its last layer is known if it is an ``nn.Sequential``.
        losses: The loss functions.
        metrics: The metrics.

    Returns:
        Whether it told of a softmax, so that nobody has to look for one.
    """
    last = _last_layer(network)
    kinds = [_kind(loss) for loss in losses]
    softmax = isinstance(last, nn.Softmax) and "cross_entropy" in kinds
    if softmax:
        _warn_of_softmax("ends with Softmax")
    if isinstance(last, nn.Sigmoid) and "bce_with_logits" in kinds:
        warnings.warn(
            "The network ends with Sigmoid, and bce_with_logits applies a sigmoid itself, so it "
            'learns slowly and badly. Remove the Sigmoid, or choose the loss "bce".',
            stacklevel=4,
        )
    if isinstance(last, nn.Sigmoid) or "bce" in kinds:
        for metric in metrics:
            name = _of_scores(metric)
            if name:
                warnings.warn(
                    f"The network returns probabilities, and {name} takes everything above its "
                    "threshold 0.0 for class 1, which suits scores. Pass "
                    f"{name}(threshold=0.5), or let the network return scores.",
                    stacklevel=4,
                )
    return softmax


def first_look_of(loss: Any) -> Callable[[Any, Any], AbstractContextManager[Any]]:
    """Return what looks at the first ``(y_pred, y_true)`` of a loss, in which it is computed.

    Where looking would wait for a device, it does not look.
    """
    kind = _kind(loss)
    if kind == "cross_entropy":
        return _look_for_softmax
    return _look_for_labels if kind == "bce_with_logits" else watching_broadcasts


@contextmanager
def _look_for_labels(prediction: Any, target: Any) -> Iterator[None]:
    yield
    if not isinstance(target, Tensor) or not is_readable(target):
        return
    beyond = target[(target < 0) | (target > 1)]  # torch computes a loss of these all the same
    if beyond.numel():
        warnings.warn(
            f"The target holds {beyond[0].item():g}, and bce_with_logits takes labels from 0 to 1. "
            "Count the two classes from 0; for more classes, give the network one output per class "
            'and choose "cross_entropy".',
            stacklevel=4,
        )


@contextmanager
def _look_for_softmax(prediction: Any, target: Any) -> Iterator[None]:
    yield
    if not isinstance(prediction, Tensor) or prediction.ndim < 2 or prediction.shape[1] < 2:
        return
    rows = prediction.detach()
    if not is_readable(rows) or rows.numel() // rows.shape[1] < _ENOUGH_ROWS:
        return
    # One-hot rows may be made by hand; a softmax gives no exact zeros as a rule.
    if bool((rows > 0).all() & ((rows.sum(1) - 1).abs() < _CLOSE).all()):
        _warn_of_softmax("returns rows of probabilities that sum to 1")


def _warn_of_softmax(how: str) -> None:
    warnings.warn(
        f"The network {how}, and cross_entropy applies a softmax itself, so it learns slowly and "
        "badly. Let the network return scores: remove its Softmax. To predict probabilities, "
        "apply it to what predict returns.",
        stacklevel=5,
    )


def _kind(loss: Any) -> str:
    while isinstance(loss, functools.partial):
        loss = loss.func
    for kind, function, module in (
        ("cross_entropy", F.cross_entropy, nn.CrossEntropyLoss),
        ("bce", F.binary_cross_entropy, nn.BCELoss),
        ("bce_with_logits", F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss),
    ):
        if loss is function or type(loss) is module:
            return kind
    return ""


def _of_scores(metric: Any) -> str:
    """Return the name of a metric that compares single outputs with 0, else an empty string."""
    for kind in (BinaryAccuracy, BinaryF1, BinaryPrecision, BinaryRecall):
        if issubclass(type(metric), kind):  # asked of the type, since mocks pretend
            return "" if metric.threshold else kind.__name__
    return "BinaryAccuracy" if getattr(metric, "func", None) is bin_acc else ""


def _last_layer(network: nn.Module) -> nn.Module | None:
    while isinstance(network, nn.Sequential):
        if len(network) == 0:
            return None
        network = network[-1]
    return network
