"""Examples blended with others of their batch: MixUp and CutMix."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Mixed"]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A target blended of two, for the loss alone.

    Attributes:
        first: The target of the examples.
        second: The target of those that they are blended with, alike.
        share: The part of the first, 0 to 1; shape () or one number per example, shape (N,).
    """

    first: Tensor
    second: Tensor
    share: float | Tensor

    def resolved(self, prediction: Any) -> Tensor:
        """Return the blend in a form that a loss takes.

        Class indices become probabilities, shape (N, C, *), if the prediction scores classes in
        dimension 1; every other target is blended as it is.
        """
        first, second = self.first, self.second
        if isinstance(prediction, Tensor) and not first.is_floating_point():
            by_class = prediction.ndim == first.ndim + 1
            first, second = (
                _one_hot(one, prediction) if by_class else one.to(prediction.dtype)
                for one in (first, second)
            )
        share = self.share
        if isinstance(share, Tensor) and share.ndim:
            share = share.reshape(-1, *[1] * (first.ndim - 1)).to(first.dtype)
        return first * share + second * (1 - share)


def _one_hot(labels: Tensor, prediction: Tensor) -> Tensor:
    hot = F.one_hot(labels, prediction.shape[1]).movedim(-1, 1)
    dtype = prediction.dtype if prediction.is_floating_point() else torch.get_default_dtype()
    return hot.to(dtype)
