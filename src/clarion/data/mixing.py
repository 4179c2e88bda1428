"""Examples blended with others of their batch: MixUp and CutMix."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Beta

from clarion.data.batch import Batch
from clarion.data.nested import map_structure
from clarion.errors import DataError, InvalidArgumentError, InvalidTypeError, kind_of

__all__ = ["CutMix", "MixUp", "Mixed", "transformed"]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A target blended of two, for the loss alone.

    Attributes:
        first: The target of the examples.
        second: The target of those that they are blended with, alike.
        share: The part of the first, 0 to 1.
    """

    first: Tensor
    second: Tensor
    share: float

    def resolved(self, prediction: Any, align: Callable[[Any, Any], Any]) -> Tensor:
        """Return the blend in a form that a loss takes.

        Class indices become probabilities, shape (N, C, *), if the prediction scores classes in
        dimension 1; every other target is blended as it is.

        Args:
            prediction: What the loss compares with.
            align: A function ``(prediction, target)`` that brings a target into the loss's shape.
        """
        first, second = align(prediction, self.first), align(prediction, self.second)
        if isinstance(prediction, Tensor) and not first.is_floating_point():
            by_class = prediction.ndim == first.ndim + 1
            first, second = (
                _one_hot(one, prediction) if by_class else one.to(prediction.dtype)
                for one in (first, second)
            )
        blend: Tensor = first * self.share + second * (1 - self.share)
        return blend


class MixUp:
    """Blends each example of a train batch with another one: inputs and targets alike.

    A batch transform, ``Model(..., batch_transform=MixUp())``: it acts on train batches alone, on
    the device. The loss judges the blended target; metrics see the example's own. Targets are
    class indices, probabilities or real values; ignored indices cannot be blended.

    Args:
        alpha: The parameter of the Beta distribution from which the share of the example itself
            is drawn, one for each batch: the smaller, the less is blended.

    Raises:
        InvalidArgumentError: If ``alpha`` is not positive.

    Source:
        Zhang et al. 2018, arXiv:1710.09412.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        _check_alpha("MixUp", alpha)
        self.alpha = alpha

    def __call__(self, batch: Batch) -> Batch:
        """Return the blended batch; the random numbers are of torch's own generator.

        Raises:
            DataError: If no input holds real values.
        """
        share = _draw_share(self.alpha)
        return _blended(batch, share, "MixUp", lambda x, other: x * share + other * (1 - share))


class CutMix:
    """Puts a box of another image into each image of a train batch, and blends the targets so.

    A batch transform like `MixUp`, for inputs of shape (N, *, H, W).

    Args:
        alpha: The parameter of the Beta distribution from which the area that stays is drawn, one
            box for each batch.

    Raises:
        InvalidArgumentError: If ``alpha`` is not positive.

    Source:
        Yun et al. 2019, arXiv:1905.04899, appendix A.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        _check_alpha("CutMix", alpha)
        self.alpha = alpha

    def __call__(self, batch: Batch) -> Batch:
        """Return the blended batch; the random numbers are of torch's own generator.

        Raises:
            DataError: If an input with real values is no image.
        """
        cut = (1.0 - _draw_share(self.alpha)) ** 0.5
        centre = torch.rand(2).tolist()
        areas: list[float] = []

        def paste(x: Tensor, other: Tensor) -> Tensor:
            if x.ndim < 3:
                raise DataError(
                    f"CutMix got an input of shape {tuple(x.shape)}; it cuts boxes out of images "
                    "of shape (N, *, H, W). MixUp blends inputs of any shape."
                )
            sizes = x.shape[-2:]
            edges = [_edges(c, cut, size) for c, size in zip(centre, sizes, strict=True)]
            (top, bottom), (left, right) = edges
            areas.append((bottom - top) * (right - left) / (sizes[0] * sizes[1]))
            x = x.clone()
            x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
            return x

        mixed = _blended(batch, 0.0, "CutMix", paste)
        mixed.mixed = map_structure(mixed.mixed, lambda one: replace(one, share=1.0 - areas[0]))
        return mixed


def transformed(transform: Callable[[Batch], Batch] | None, batch: Batch) -> Batch:
    """Return a train batch after the user's batch transform, if there is one.

    Raises:
        InvalidTypeError: If the transform returns no batch.
    """
    if transform is None:
        return batch
    changed = transform(batch)
    if not isinstance(changed, Batch):
        raise InvalidTypeError(
            f"batch_transform returned {kind_of(changed)}; it takes a Batch and returns a Batch."
        )
    return changed


def _blended(
    batch: Batch, share: float, name: str, blend: Callable[[Tensor, Tensor], Tensor]
) -> Batch:
    order = torch.randperm(batch.size or 0)
    blended = 0

    def other(leaf: Tensor) -> Tensor:
        return leaf[order.to(leaf.device, non_blocking=True)]

    def of_input(leaf: Any) -> Any:
        nonlocal blended
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        blended += 1
        return blend(leaf, other(leaf))

    def of_target(leaf: Any) -> Any:
        return Mixed(leaf, other(leaf), share) if isinstance(leaf, Tensor) else leaf

    args = tuple(map_structure(value, of_input) for value in batch.args)
    kwargs = {key: map_structure(value, of_input) for key, value in batch.kwargs.items()}
    if not blended:
        raise DataError(
            f"{name} blends inputs of real values, and this batch has none: token numbers, for "
            "example, have no value between them."
        )
    target = map_structure(batch.target, of_target)
    return replace(batch, args=args, kwargs=kwargs, mixed=target)


def _draw_share(alpha: float) -> float:
    share: float = Beta(alpha, alpha).sample().item()
    return share


def _edges(centre: float, cut: float, size: int) -> tuple[int, int]:
    half = cut * size / 2
    middle = centre * size
    return max(0, round(middle - half)), min(size, round(middle + half))


def _check_alpha(name: str, alpha: float) -> None:
    if not alpha > 0:
        raise InvalidArgumentError(f"{name}(alpha={alpha!r}): a number above 0, such as 0.2.")


def _one_hot(labels: Tensor, prediction: Tensor) -> Tensor:
    hot = F.one_hot(labels, prediction.shape[1]).movedim(-1, 1)
    dtype = prediction.dtype if prediction.is_floating_point() else torch.get_default_dtype()
    return hot.to(dtype)
