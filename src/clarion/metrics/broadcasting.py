"""A look at whether a function of the user's broadcasts predictions against targets."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["watching_broadcasts"]

_DIFFERENCES = ("sub", "rsub", "subtract", "__sub__", "__rsub__")


class _Watch(TorchFunctionMode):
    """Notes the shape that the prediction and the target are broadcast to, if they are."""

    def __init__(self, prediction: Tensor, target: Tensor) -> None:
        super().__init__()
        self._shapes = {prediction.shape, target.shape}
        self._whole = torch.broadcast_shapes(prediction.shape, target.shape)
        self.found: torch.Size | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        shapes = {value.shape for value in args if isinstance(value, Tensor)}
        if shapes == self._shapes and isinstance(result, Tensor) and result.shape == self._whole:
            # Larger than both is always a mistake; as large as one may be a mask, not a difference.
            name = getattr(func, "__name__", "")
            if self._whole not in self._shapes or name in _DIFFERENCES:
                self.found = self._whole
        return result


@contextmanager
def watching_broadcasts(
    prediction: Any, target: Any, who: str = "The loss function"
) -> Iterator[None]:
    """Warn if what is computed inside compares a prediction and a target of different shapes.

    Args:
        prediction: The prediction that a loss function or a metric gets.
        target: The target that it gets.
        who: What a warning calls it.
    """
    if not _could_broadcast(prediction, target):
        yield
        return
    with _Watch(prediction, target) as watch:
        yield
    if watch.found is not None:
        warnings.warn(
            f"{who} compares y_pred of shape {tuple(prediction.shape)} with y_true of shape "
            f"{tuple(target.shape)}, which torch broadcasts to {tuple(watch.found)}: examples meet "
            "targets that are not theirs. Give both one shape, for example with "
            "y_true.reshape(y_pred.shape), or choose one by name.",
            stacklevel=4,
        )


def _could_broadcast(prediction: Any, target: Any) -> bool:
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
        return False
    if prediction.is_nested or target.is_nested:  # they have no shape
        return False
    if prediction.shape == target.shape or torch.compiler.is_compiling():
        return False
    try:
        whole = torch.broadcast_shapes(prediction.shape, target.shape)
    except RuntimeError:
        return False
    return bool(whole.numel() > min(prediction.numel(), target.numel()))
