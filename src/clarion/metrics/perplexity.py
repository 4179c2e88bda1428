"""The perplexity of predicted tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clarion.errors import DataError
from clarion.metrics.base import StreamingMetric, accumulation_dtype
from clarion.metrics.registry import register_metric_class
from clarion.metrics.shapes import NARROW

__all__ = ["Perplexity"]


@register_metric_class("perplexity", "ppl")
class Perplexity(StreamingMetric):
    """The exponential of the mean negative log-likelihood over all tokens that count.

    Over an epoch it is one mean over all tokens, not a mean of the batches' perplexities. Names:
    ``"perplexity"``, ``"ppl"``; in the logs ``perplexity``.

    ``y_pred`` is logits of shape (N, C, *), as for ``cross_entropy``, or (N, *, C), as language
    models give them; where both would fit, the first is meant. ``y_true`` is classes of shape
    (N, *). A causal model's targets must stand under the logits that predict them.

    Args:
        ignore_index: Targets of this value do not count.

    Source:
        Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks.
    """

    adds_up = True

    def __init__(self, *, ignore_index: int = -100) -> None:
        super().__init__()
        self.__name__ = "perplexity"
        self.ignore_index = ignore_index

    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return the negative log-likelihoods' sum and the number of tokens, shape (2,)."""
        logits = _classes_second(y_pred.detach(), y_true)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if y_true.dtype in NARROW:
            y_true = y_true.long()
        losses = F.cross_entropy(logits, y_true, ignore_index=self.ignore_index, reduction="none")
        dtype = accumulation_dtype(losses.device)
        count = (y_true != self.ignore_index).sum(dtype=dtype)
        return torch.stack([losses.sum(dtype=dtype), count])

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the perplexity, shape (); nan if no token counted."""
        return (sums[0] / sums[1]).exp()


def _classes_second(y_pred: Tensor, y_true: Tensor) -> Tensor:
    shape, target = tuple(y_pred.shape), tuple(y_true.shape)
    if (shape[:1], shape[2:]) == (target[:1], target[1:]):
        return y_pred
    if shape[:-1] == target:
        return y_pred.movedim(-1, 1)
    raise DataError(
        f"Perplexity takes logits of shape (N, C, ...) or (N, ..., C) and classes of shape "
        f"(N, ...); y_pred has {shape}, y_true {target}."
    )
