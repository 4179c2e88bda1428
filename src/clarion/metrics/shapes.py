"""Shapes and labels that metrics check before they compare anything."""

from typing import Any

import torch
from torch import Tensor

from clarion.errors import DataError

__all__ = [
    "NARROW",
    "aligned",
    "best_class",
    "check_labels",
    "is_readable",
    "same_but_ones",
    "split_mask",
]

NARROW = frozenset({torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16})
"""Dtypes of labels in which -1, an ignored index or a number of classes may become another number,
since torch compares in the dtype of the labels: such labels are made int64 first."""

_FEW = 2**11  # scores up to which argmax takes less time: max returns the scores too


def aligned(y_true: Tensor, predicted: Tensor, y_pred: Tensor) -> Tensor:
    """Return the target in the shape of what was predicted, if only dimensions of 1 differ.

    Comparing (N,) with (N, 1) would give (N, N) by broadcasting, and a number that means nothing.

    Args:
        y_true: The target.
        predicted: What will be compared with it.
        y_pred: What it was made from, for the message.

    Raises:
        DataError: If the shapes do not fit.
    """
    if y_true.shape == predicted.shape:
        return y_true
    if same_but_ones(y_true, predicted):
        return y_true.reshape(predicted.shape)
    remedy = ""
    if predicted.ndim == y_true.ndim + 1 and not y_true.is_floating_point():
        remedy = ' Class indices go with metrics of several classes, such as "acc" or "f1".'
    elif y_true.shape == y_pred.shape and predicted.ndim == y_true.ndim - 1:
        remedy = " For one-hot targets pass y.argmax(1), to the loss as well."
    raise DataError(
        f"The target has shape {tuple(y_true.shape)}, the predictions {tuple(y_pred.shape)}; "
        f"expected a target of shape {tuple(predicted.shape)}.{remedy}"
    )


def best_class(scores: Tensor) -> Tensor:
    """Return the number of the highest score, the first of equal ones, as argmax does.

    Where classes are not the last dimension, as with images, ``max`` takes a fifth of the time of
    ``argmax`` on a CPU (torch 2.13), and elsewhere some tenth less.

    Args:
        scores: Shape (N, C, *).

    Returns:
        Shape (N, *), int64.
    """
    return scores.argmax(1) if scores.numel() <= _FEW else scores.max(1).indices


def same_but_ones(one: Tensor, other: Tensor) -> bool:
    """Tell whether two shapes are the same but for dimensions of 1 after the first."""
    return one.shape[:1] == other.shape[:1] and _rest(one) == _rest(other)


def split_mask(y_true: Any) -> tuple[Tensor, Tensor | None]:
    """Return the labels and, if the target is a pair ``(labels, mask)``, the mask as booleans.

    Labels of a narrow dtype become int64.
    """
    labels, mask = y_true if isinstance(y_true, tuple | list) else (y_true, None)
    if labels.dtype in NARROW:
        labels = labels.long()
    return labels, None if mask is None else mask.bool()


def check_labels(labels: Tensor, counts: Tensor, num_classes: int) -> None:
    """Raise if a label that counts is no class; do nothing where looking would wait for a device.

    Labels may be floating point, and are whole numbers then too.

    Args:
        labels: Class indices of any shape.
        counts: Where labels count, boolean, of the same shape.
        num_classes: How many classes there are.

    Raises:
        DataError: If a label is negative, not less than the number of classes, or between two.
    """
    if not is_readable(labels):
        return
    outside = (labels < 0) | (labels >= num_classes)
    if labels.is_floating_point():
        outside = outside | (labels != labels.round())  # nan differs from itself
    wrong = counts & outside
    if bool(wrong.any()):
        label = labels[wrong][0].item()
        remedy = "Give the network more outputs, or ignore the label with ignore_index."
        if label % 1:  # nan is true
            remedy = "Turn it into classes, as in (y > 0.5).long(); the loss may have it as it is."
        raise DataError(
            f"The target holds the label {label:g}, but y_pred scores {num_classes} classes: "
            f"labels are 0 to {num_classes - 1}, whole numbers. {remedy}"
        )


def is_readable(tensor: Tensor) -> bool:
    """Tell whether the values of a tensor can be read without waiting for a device."""
    # A tensor of another type on the CPU is a fake or traced one, which holds no values.
    return tensor.device.type == "cpu" and type(tensor) is Tensor


def _rest(tensor: Tensor) -> torch.Size:
    return torch.Size(size for size in tensor.shape[1:] if size != 1)
