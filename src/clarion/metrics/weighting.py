"""What the mean that a loss or metric returns runs over: examples, tokens, class weights."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarion.data.size import get_batch_size
from clarion.metrics.shapes import NARROW

__all__ = [
    "TargetWeight",
    "Weight",
    "elements",
    "register_target_weight",
    "target_weight",
    "valid_targets",
    "weight_of",
    "weights_of",
]

Weight: TypeAlias = Callable[[Any, Any], "int | float | Tensor"]
TargetWeight: TypeAlias = Callable[[Any], "int | float | Tensor"]

# By identity, with the function itself to keep it alive: asking a mock for its hash is recorded.
_target_weights: dict[int, tuple[Any, Callable[..., "int | float | Tensor"]]] = {}
_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)
_FORWARDS = tuple(module.forward for module in _MODULES)


def weight_of(func: Any) -> Weight:
    """Return the function ``(y_pred, y_true)`` that tells what the mean of ``func`` runs over.

    Cross-entropy and negative log-likelihood run over the targets that are not ignored, each by
    the weight of its class; so do `acc` and `topk`. Everything else is taken to run over the
    examples of the batch.

    Args:
        func: A loss or metric; ``functools.partial`` of a known function is understood.

    Returns:
        A function that returns a number, or a 0-d tensor on the device of the target.
    """
    known = target_weight(func)
    if known is None:
        return get_batch_size
    return functools.partial(_of_target, known)


def target_weight(func: Any) -> TargetWeight | None:
    """Return the same as `weight_of` as a function of the target alone, before any forward.

    Args:
        func: A loss or metric; an attribute or method ``target_weight`` of its own is used.

    Returns:
        The function, or None if the weight is the batch size or depends on the prediction.
    """
    # Looked up statically: a mock has every attribute that it is asked for.
    if inspect.getattr_static(func, "target_weight", None) is not None:
        return func.target_weight  # type: ignore[no-any-return]
    if isinstance(func, _MODULES) and type(func).forward in _FORWARDS:
        return functools.partial(_of_module, func) if func.reduction == "mean" else None
    function, options = _unwrapped(func)
    _, weigh = _target_weights.get(id(function), (None, None))
    if weigh is None or options.keys() & {"size_average", "reduce"}:
        return None
    if options.get("reduction", "mean") != "mean":
        return None
    return functools.partial(weigh, **options)


def register_target_weight(
    func: Callable[..., Any], weigh: Callable[..., "int | float | Tensor"]
) -> None:
    """Declare what the mean of a function runs over.

    Args:
        func: A function ``(y_pred, y_true)`` that returns a mean.
        weigh: A function of the target, which also gets the keyword arguments that
            ``functools.partial`` fixed for ``func``. It returns a number or a 0-d tensor.
    """
    _target_weights[id(func)] = func, weigh


def weights_of(weigh: TargetWeight, targets: Sequence[Tensor]) -> Tensor:
    """Return the weight of each of several targets, in few operations if they are alike.

    Args:
        weigh: What `target_weight` returned.
        targets: The targets.

    Returns:
        Shape (targets,).
    """
    ignored = _ignored_by(weigh)
    if ignored is not None:
        try:
            together = torch.stack(list(targets))
        except RuntimeError:  # they differ in shape
            together = None
        if together is not None and together.dtype in NARROW:
            together = together.long()
        if together is not None and not together.is_floating_point():
            return (together.reshape(len(targets), -1) != ignored).sum(1)
    return torch.stack([torch.as_tensor(weigh(target)) for target in targets])


def valid_targets(
    y_true: Any, *, ignore_index: int = -100, weight: Tensor | None = None, **_: Any
) -> int | float | Tensor:
    """Return how many targets are not ignored, or the sum of their class weights.

    Args:
        y_true: Class indices of any shape; or probabilities, shape (N, C, *), none of which is
            ever ignored.
        ignore_index: The index that does not count.
        weight: One weight per class, shape (C,), as in ``torch.nn.functional.cross_entropy``.

    Returns:
        A number, or a tensor of shape () on the device of ``y_true``.
    """
    if not isinstance(y_true, Tensor):
        return get_batch_size(y_true)
    if y_true.is_floating_point():
        return y_true.numel() // y_true.shape[min(1, y_true.ndim - 1)] if y_true.numel() else 0
    labels: Tensor = y_true.long() if y_true.dtype in NARROW else y_true
    valid: Tensor = labels != ignore_index
    if weight is None:
        return valid.sum()
    class_weights = weight.detach()[torch.where(valid, labels, 0)]
    return torch.where(valid, class_weights, 0).sum()


def elements(y_true: Any, **_: Any) -> int:
    """Return the number of entries of the target."""
    return y_true.numel() if isinstance(y_true, Tensor) else get_batch_size(y_true)


def _of_target(known: TargetWeight, _y_pred: Any, y_true: Any) -> int | float | Tensor:
    return known(y_true)


def _of_module(module: Any, y_true: Any) -> int | float | Tensor:
    return valid_targets(y_true, ignore_index=module.ignore_index, weight=module.weight)


def _ignored_by(weigh: TargetWeight) -> int | None:
    """Return the index that does not count, None if the weight is no plain count of the others."""
    if not isinstance(weigh, functools.partial):
        return None
    if weigh.func is _of_module:
        module = weigh.args[0]
        return module.ignore_index if module.weight is None else None
    if weigh.func is valid_targets and weigh.keywords.get("weight") is None:
        return int(weigh.keywords.get("ignore_index", -100))
    return None


def _unwrapped(func: Any) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {}
    while isinstance(func, functools.partial):
        if func.args:
            return None, {}
        options = {**func.keywords, **options}
        func = func.func
    return func, options


register_target_weight(F.cross_entropy, valid_targets)
register_target_weight(F.nll_loss, valid_targets)
