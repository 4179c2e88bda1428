"""Targets brought into the shape that the loss compares with predictions."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarion.errors import DataError
from clarion.metrics.shapes import is_readable

__all__ = ["Aligner", "aligner_of"]

_ELEMENTWISE = frozenset(
    {
        F.binary_cross_entropy,
        F.binary_cross_entropy_with_logits,
        F.huber_loss,
        F.l1_loss,
        F.mse_loss,
        F.smooth_l1_loss,
        F.soft_margin_loss,
    }
)
_ELEMENTWISE_MODULES = (
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.HuberLoss,
    nn.L1Loss,
    nn.MSELoss,
    nn.SmoothL1Loss,
    nn.SoftMarginLoss,
)
_BY_CLASS = frozenset({F.cross_entropy, F.nll_loss})
_BY_CLASS_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)


class Aligner:
    """Leaves every target as it is: what a loss wants that clarion does not know."""

    def align(self, y_pred: Any, y_true: Any) -> Any:
        """Return the target in the shape that loss and metrics compare."""
        return y_true

    def cast(self, y_pred: Any, y_true: Any) -> Any:
        """Return the target in the dtype that the loss wants."""
        return y_true


class _Elementwise(Aligner):
    """For losses that compare element by element, where broadcasting would be an error."""

    def align(self, y_pred: Any, y_true: Any) -> Any:
        if not isinstance(y_pred, Tensor) or not isinstance(y_true, Tensor):
            return y_true
        if y_pred.shape == y_true.shape:
            return y_true
        if (*y_true.shape, 1) == tuple(y_pred.shape):
            return y_true.unsqueeze(-1)
        if tuple(y_true.shape) == (*y_pred.shape, 1):
            return y_true.squeeze(-1)
        raise DataError(
            f"y_pred has shape {tuple(y_pred.shape)} and y_true {tuple(y_true.shape)}, but the "
            "loss compares them element by element. Give the network as many outputs as the "
            "target has values, or reshape the target to the shape of y_pred."
        )

    def cast(self, y_pred: Any, y_true: Any) -> Any:
        both = isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)
        if both and not y_true.is_floating_point() and y_pred.is_floating_point():
            return y_true.to(y_pred.dtype)
        return y_true


class _ByClass(Aligner):
    """For losses that take class indices: (N, 1) becomes (N,)."""

    def align(self, y_pred: Any, y_true: Any) -> Any:
        if not isinstance(y_pred, Tensor) or not isinstance(y_true, Tensor) or y_pred.ndim < 2:
            return y_true
        wanted = (*y_pred.shape[:1], *y_pred.shape[2:])
        if y_true.is_floating_point():
            if y_true.shape == y_pred.shape:  # probabilities, one per class
                return y_true
        elif y_true.shape == wanted:
            return y_true
        elif tuple(y_true.shape) == (*wanted, 1):
            return y_true.squeeze(-1)
        raise DataError(_explained_classes(y_pred, y_true, wanted))

    def cast(self, y_pred: Any, y_true: Any) -> Any:
        is_bool = isinstance(y_true, Tensor) and y_true.dtype is torch.bool
        return y_true.long() if is_bool else y_true


def _explained_classes(y_pred: Tensor, y_true: Tensor, wanted: tuple[int, ...]) -> str:
    given, shape = tuple(y_true.shape), tuple(y_pred.shape)
    dtype = str(y_true.dtype).removeprefix("torch.")
    facts = f"y_pred has shape {shape} and y_true {given} {dtype}"
    if y_true.is_floating_point():
        missing = int(y_true.isnan().sum()) if is_readable(y_true) else 0
        if missing and given in (wanted, (*wanted, 1)):
            return (
                f"{facts}, and {missing} of the target are nan: these labels are missing. Leave "
                "their rows out, or have them passed over: y.nan_to_num(-100).long()."
            )
        if given in (wanted, (*wanted, 1)):
            return (
                f"{facts}, but the loss takes class indices, which are whole numbers. Convert "
                'the target with y.long(), or choose a loss for real values such as "mse".'
            )
        return (
            f"{facts}, but the loss takes class indices of shape {wanted}, or one probability "
            f"per class of shape {shape}."
        )
    if given == shape:
        return (
            f"{facts}, but the loss takes class indices of shape {wanted}. Pass y.argmax(1) for "
            "one-hot targets, or y.float() for probabilities."
        )
    if given == shape[:-1]:
        return (
            f"{facts}, but the loss reads the classes in dimension 1, and expects a target of "
            f"shape {wanted}. Let the network return y_pred.transpose(1, -1)."
        )
    return (
        f"{facts}, but the loss takes one class index for each score vector: expected a target "
        f"of shape {wanted}."
    )


def aligner_of(loss_function: Any) -> Aligner:
    """Return what brings targets into the shape and dtype that a loss function wants.

    Args:
        loss_function: A loss function; those of torch and ``functools.partial`` of them are known.
    """
    while isinstance(loss_function, functools.partial):
        loss_function = loss_function.func
    if isinstance(loss_function, nn.Module):
        if type(loss_function) in _ELEMENTWISE_MODULES:
            return _Elementwise()
        return _ByClass() if type(loss_function) in _BY_CLASS_MODULES else Aligner()
    try:
        if loss_function in _ELEMENTWISE:
            return _Elementwise()
        return _ByClass() if loss_function in _BY_CLASS else Aligner()
    except TypeError:  # not hashable
        return Aligner()
