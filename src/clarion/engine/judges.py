"""Losses of torch and their derivatives, for predictions that nothing was recorded of."""

from operator import is_ as _is
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import loss as losses

from clarion.engine.gradients import gradients_of, is_same

__all__ = ["Judge", "judge_of"]

_aten = torch.ops.aten
_MEAN = 1  # what torch's kernels call that reduction
_IGNORED = -100  # the target that torch's cross-entropy leaves out by default


class Judge(Protocol):
    """A loss, and its derivative for the prediction.

    Attributes:
        may_change: Whether `is_current` is to be asked at each batch: a function stays what it is.
    """

    may_change: bool

    def value(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        """Return the loss of a batch, shape (), and what `slope` needs."""

    def slope(self, kept: Any) -> Tensor | None:
        """Return the gradient for the prediction; None if the loss does not depend on it."""

    def agrees(self, prediction: Tensor, target: Tensor) -> bool:
        """Tell whether loss and gradient of a batch are those of autograd, bit for bit."""

    def is_current(self) -> bool:
        """Tell whether the loss is still what it was."""


def judge_of(func: Any) -> Judge | None:
    """Return how a loss is judged, None if it is not one of torch's own.

    A function of a user may do anything: have weights that learn, look at those of the network, or
    count its calls. Those of torch depend on prediction and target alone.

    Args:
        func: The loss, a function or a module ``(y_pred, y_true)``.
    """
    if isinstance(func, FunctionType):
        # By what it is: a wrapper of the user's may have its name, its module and its docstring.
        if getattr(functional, func.__name__, None) is not func:
            return None
        return _BY_KERNELS.get(func, _Recorded)(func)
    if getattr(losses, type(func).__name__, None) is not type(func):
        return None
    if any(_hooks_of(func)) or "forward" in vars(func) or [*func.parameters()]:
        return None
    if type(func) is nn.CrossEntropyLoss and _has_defaults(func):
        return _CrossEntropy(func)
    return _Recorded(func)


class _Recorded:
    """Any loss, by autograd.

    Args:
        func: The loss.
    """

    def __init__(self, func: Any) -> None:
        self._func = func
        self._looks = _looks_of(func)
        self.may_change = isinstance(func, nn.Module)

    def is_current(self) -> bool:
        looks = _looks_of(self._func)
        return len(looks) == len(self._looks) and all(map(_is, looks, self._looks))

    def value(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        with torch.enable_grad():
            leaf = prediction.detach().requires_grad_()
            loss: Tensor = self._func(leaf, target)
        return loss, (loss, leaf)

    def slope(self, kept: tuple[Tensor, Tensor]) -> Tensor | None:
        loss, leaf = kept
        return gradients_of(loss, (leaf,))[0]

    def agrees(self, prediction: Tensor, target: Tensor) -> bool:
        return True


class _ByKernels:
    """A loss whose kernels are called at once.

    Args:
        func: The loss.
    """

    def __init__(self, func: Any) -> None:
        self._recorded = _Recorded(func)
        self.may_change = self._recorded.may_change
        self._one = torch.ones(())

    def value(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def slope(self, kept: Any) -> Tensor | None:
        raise NotImplementedError

    def agrees(self, prediction: Tensor, target: Tensor) -> bool:
        try:
            wanted, recorded = self._recorded.value(prediction, target)
            loss, kept = self.value(prediction, target)
            slope, found = self._recorded.slope(recorded), self.slope(kept)
        except Exception:  # such as probabilities of classes instead of their numbers
            return False
        if slope is None or found is None:
            return False
        return is_same(wanted, loss) and is_same(slope, found)

    def is_current(self) -> bool:
        return self._recorded.is_current()

    def _one_like(self, loss: Tensor) -> Tensor:
        if self._one.dtype is not loss.dtype or self._one.device != loss.device:
            self._one = torch.ones_like(loss)
        return self._one


class _CrossEntropy(_ByKernels):
    """``cross_entropy`` of class indices, with torch's defaults."""

    def value(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        logs = torch.log_softmax(prediction, 1)
        loss, total = _aten.nll_loss_forward.default(logs, target, None, _MEAN, _IGNORED)
        return loss, (loss, logs, target, total)

    def slope(self, kept: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor | None:
        loss, logs, target, total = kept
        one = self._one_like(loss)
        slope = _aten.nll_loss_backward.default(one, logs, target, None, _MEAN, _IGNORED, total)
        found: Tensor = _aten._log_softmax_backward_data.default(slope, logs, 1, logs.dtype)
        return found


class _MeanSquares(_ByKernels):
    """``mse_loss``."""

    def value(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        loss = functional.mse_loss(prediction, target)
        return loss, (loss, prediction, target)

    def slope(self, kept: tuple[Tensor, Tensor, Tensor]) -> Tensor | None:
        loss, prediction, target = kept
        one = self._one_like(loss)
        found: Tensor = _aten.mse_loss_backward.default(one, prediction, target, _MEAN)
        return found


_BY_KERNELS: dict[Any, type[_ByKernels]] = {
    functional.cross_entropy: _CrossEntropy,
    functional.mse_loss: _MeanSquares,
}


def _hooks_of(module: nn.Module) -> list[Any]:
    return [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]


def _looks_of(func: Any) -> list[Any]:
    """Return objects, of which one is another object when something changes in a loss."""
    if isinstance(func, FunctionType):
        return []
    return [*vars(func).values(), *func._buffers.values(), *map(bool, _hooks_of(func))]


def _has_defaults(loss: nn.CrossEntropyLoss) -> bool:
    chosen = loss.weight, loss.ignore_index, loss.reduction, loss.label_smoothing
    return chosen == (None, _IGNORED, "mean", 0.0)
