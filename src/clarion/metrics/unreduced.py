"""Losses before their mean is taken: one value an element, and how much each counts."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarion.errors import DataError
from clarion.metrics.shapes import NARROW

__all__ = ["LOSS_MODULES", "Unreduced", "takes_weight", "unreduced_of", "weighed", "weighted_mean"]

LOSS_MODULES: Mapping[Any, type[nn.Module]] = {
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.hinge_embedding_loss: nn.HingeEmbeddingLoss,
    F.huber_loss: nn.HuberLoss,
    F.kl_div: nn.KLDivLoss,
    F.l1_loss: nn.L1Loss,
    F.mse_loss: nn.MSELoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
    F.multilabel_margin_loss: nn.MultiLabelMarginLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    F.nll_loss: nn.NLLLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.soft_margin_loss: nn.SoftMarginLoss,
}
"""torch's losses: the module of each function."""

_MEANS = ("mean", "batchmean")
_BY_CLASS = frozenset({nn.CrossEntropyLoss, nn.NLLLoss})
_FORWARDS = {module.forward: module for module in LOSS_MODULES.values()}


def _nothing() -> None:
    return None


class Unreduced:
    """A loss of torch without its mean.

    Args:
        losses: The loss with ``reduction="none"``.
        by_class: Whether it takes class indices, some of which may not count.
        ignore_index: The index that does not count.
        weight_of_classes: Returns the weights of the classes, or None.
    """

    def __init__(
        self,
        losses: Callable[[Any, Any], Tensor],
        *,
        by_class: bool = False,
        ignore_index: int = -100,
        weight_of_classes: Callable[[], Tensor | None] = _nothing,
    ) -> None:
        self.losses = losses
        self._by_class = by_class
        self._ignore_index = ignore_index
        self._weight_of_classes = weight_of_classes

    def counts(self, y_true: Any) -> Tensor | None:
        """Return how much each element counts in the mean; None if all count the same.

        Args:
            y_true: The target.

        Returns:
            Shape of ``y_true``, floating point.
        """
        if not self._by_class or not isinstance(y_true, Tensor) or y_true.is_floating_point():
            return None
        labels: Tensor = y_true.long() if y_true.dtype in NARROW else y_true
        valid: Tensor = labels != self._ignore_index
        weights = self._weight_of_classes()
        if weights is None:
            return valid.to(torch.get_default_dtype())
        return torch.where(valid, weights.detach()[torch.where(valid, labels, 0)], 0.0)


def unreduced_of(func: Any) -> Unreduced | None:
    """Return a loss without its mean; None if it is not torch's, or is no mean.

    Args:
        func: A function of ``torch.nn.functional``, ``functools.partial`` of one, or a loss module.
    """
    if isinstance(func, nn.Module):
        return _of_module(func)
    options: dict[str, Any] = {}
    while isinstance(func, functools.partial):
        if func.args:
            return None
        options = {**func.keywords, **options}
        func = func.func
    try:
        module = LOSS_MODULES.get(func)
    except TypeError:  # not hashable
        return None
    if module is None or options.keys() & {"size_average", "reduce"}:
        return None
    reduction = options.pop("reduction", "mean")
    if reduction not in _MEANS:
        return None
    losses = functools.partial(func, reduction="none", **options)
    return Unreduced(
        losses if reduction == "mean" else functools.partial(_of_example, losses),
        by_class=module in _BY_CLASS,
        ignore_index=options.get("ignore_index", -100),
        weight_of_classes=functools.partial(options.get, "weight"),
    )


def weighted_mean(losses: Tensor, counts: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of losses in which an example of weight 2 counts as if it were there twice.

    Args:
        losses: One loss an element, shape (N, *).
        counts: How much each counts in the mean without weights, shape (N, *); None if equally.
            What ``losses`` holds is multiplied by it already.
        weight: The weights of the examples, shape (N,), or of the elements, shape (N, *).

    Returns:
        The mean, shape (); nan, with a gradient of 0, if nothing counts. What it runs over, ().

    Raises:
        DataError: If the weights do not fit the losses.
    """
    # Sums of 16 bits are no more than three digits, and end at 65504 in float16.
    losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
    weight = _shaped(weight, losses).to(losses.dtype)
    if counts is None:
        total = weight.sum()
        whole = total * (losses.numel() // weight.numel()) if weight.numel() else total
    else:
        whole = total = (counts.to(losses.dtype) * weight).sum()
    mean = (losses * weight).sum() / torch.where(whole > 0, whole, 1.0)
    return torch.where(whole > 0, mean, torch.nan), total


def weighed(counts: Tensor | None, weight: Tensor) -> Tensor:
    """Return what `weighted_mean` runs over, before there are losses.

    Args: see `weighted_mean`.
    """
    return weight.sum() if counts is None else (counts * _shaped(weight, counts)).sum()


def takes_weight(func: Any) -> bool:
    """Tell whether a loss of the user's takes weights: its third parameter is named ``weight``."""
    called = func.forward if isinstance(func, nn.Module) else func
    try:
        names = list(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    return names[2:3] == ["weight"]


def _shaped(weight: Tensor, losses: Tensor) -> Tensor:
    if weight.ndim == 2 and weight.shape[1] == 1 and losses.ndim == 1:
        weight = weight[:, 0]
    if weight.shape != losses.shape[: weight.ndim]:
        raise DataError(
            f"The weights have shape {tuple(weight.shape)}, the losses {tuple(losses.shape)}; "
            "give one weight for each example, shape (examples,). A batch of three is "
            "(x, y, weight); several inputs go together, as in ((x1, x2), y)."
        )
    return weight.reshape(*weight.shape, *[1] * (losses.ndim - weight.ndim))


def _of_example(losses: Callable[[Any, Any], Tensor], y_pred: Any, y_true: Any) -> Tensor:
    return losses(y_pred, y_true).flatten(1).sum(1)


def _of_module(module: Any) -> Unreduced | None:
    kind = _FORWARDS.get(type(module).forward)
    if kind is None or module.reduction not in _MEANS:
        return None
    losses = copy.copy(module)  # shares its buffers, which move with the module
    losses.reduction = "none"
    return Unreduced(
        losses if module.reduction == "mean" else functools.partial(_of_example, losses),
        by_class=kind in _BY_CLASS,
        ignore_index=getattr(module, "ignore_index", -100),
        weight_of_classes=functools.partial(getattr, module, "weight"),
    )
