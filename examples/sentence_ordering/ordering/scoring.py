"""How good an order is: the loss, and what is shown beside it.

Everything here takes the logits of all tokens and targets of the same shape that are -100 but at
the sentences' markers, where they hold the sentence's place in the true text.
"""

import torch
from torch import Tensor

from clarion.metrics.base import StreamingMetric, accumulation_dtype

__all__ = [
    "IGNORED",
    "KendallTau",
    "RankingAccuracy",
    "TargetLogits",
    "kendall_tau",
    "metrics",
    "ordering_loss",
    "ranking_accuracy",
]

IGNORED = -100
"""The target of a token that is not a sentence's marker, as everywhere in transformers."""


def ordering_loss(y_pred: Tensor, y_true: Tensor) -> Tensor:
    """Return the squared errors of a text's sentences, summed, as the mean over the texts.

    Args:
        y_pred: Logits. Shape (N, T, 1), floating point.
        y_true: The place of the sentence that a token marks, or -100. Shape (N, T'), integer.
            Where a text was truncated, T' may exceed T: as many targets count as there are
            logits left.

    Returns:
        Shape (), float32.
    """
    logits, places, marked = _aligned(y_pred, y_true)
    return (logits - places).square().where(marked, 0.0).sum(1).mean()


def ranking_accuracy(y_pred: Tensor, y_true: Tensor) -> Tensor:
    """Return the share of each text's sentences that ordering by logit puts where they belong.

    Args:
        y_pred: Logits. Shape (N, T, 1), floating point. Equal ones keep the order of the input.
        y_true: Places or -100, as in ``ordering_loss``. Shape (N, T').

    Returns:
        Rates in [0, 1]; nan for a text without a sentence. Shape (N,), float32.
    """
    logits, places, marked = _aligned(y_pred, y_true)
    right = (_ranks(logits, marked) == _ranks(places, marked)) & marked
    return right.sum(1) / marked.sum(1)


def kendall_tau(y_pred: Tensor, y_true: Tensor) -> Tensor:
    """Return Kendall's tau-b between logits and places, text by text.

    It is 1 for the true order, 0 on average for a random one, -1 for the reverse.

    Args:
        y_pred: Logits. Shape (N, T, 1), floating point.
        y_true: Places or -100, as in ``ordering_loss``. Shape (N, T').

    Returns:
        In [-1, 1]; 0 where all logits are equal, nan for a text with fewer than two sentences.
        Shape (N,), float32.

    Source:
        Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33(3).
    """
    logits, places, marked = _aligned(y_pred, y_true)
    both = (marked[:, :, None] & marked[:, None, :]).float()
    by_logit = (logits[:, :, None] - logits[:, None, :]).sign() * both
    by_place = (places[:, :, None] - places[:, None, :]).sign() * both
    agreement = (by_logit * by_place).sum((1, 2))
    untied = by_logit.abs().sum((1, 2)) * by_place.abs().sum((1, 2))
    tau = agreement / untied.sqrt().clamp(min=1.0)
    return tau.where(marked.sum(1) > 1, torch.nan)


class RankingAccuracy(StreamingMetric):
    """The mean over the texts of ``ranking_accuracy``, in [0, 1]."""

    __name__ = "ranking_accuracy"

    def tally(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the sum over the texts, and their number."""
        return _sum_and_count(ranking_accuracy(y_pred, y_true))

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the mean."""
        return sums[0] / sums[1]


class KendallTau(StreamingMetric):
    """The mean over the texts of ``kendall_tau``, in [-1, 1]."""

    __name__ = "kendall_tau"

    def tally(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the sum over the texts, and their number."""
        return _sum_and_count(kendall_tau(y_pred, y_true))

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the mean."""
        return sums[0] / sums[1]


class TargetLogits(StreamingMetric):
    """Mean and standard deviation of the logits at the sentences' markers.

    A standard deviation near 0 says that the network gives every sentence the same place.
    """

    __name__ = ("logit_mean", "logit_std")

    def tally(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return sum, sum of squares and number of the logits."""
        logits, _, marked = _aligned(y_pred, y_true)
        dtype = accumulation_dtype(logits.device)
        logits = logits.to(dtype).where(marked, 0.0)
        return torch.stack([logits.sum(), logits.square().sum(), marked.sum().to(dtype)])

    def conclude(self, sums: Tensor) -> Tensor:
        """Return mean and standard deviation (of the population), shape (2,)."""
        mean = sums[0] / sums[2]
        variance = sums[1] / sums[2] - mean.square()
        return torch.stack([mean, variance.clamp(min=0.0).sqrt()])


def metrics() -> list[StreamingMetric]:
    """Return fresh metrics, in the order in which they are shown."""
    return [RankingAccuracy(), KendallTau(), TargetLogits()]


def _aligned(y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, places and whether a token is a marker, all of shape (N, T)."""
    logits = y_pred.squeeze(-1).float()
    places = y_true[:, : logits.shape[1]]
    return logits, places.float(), places != IGNORED


def _ranks(values: Tensor, marked: Tensor) -> Tensor:
    """Return the rank of each marked value among the marked ones of its row."""
    order = values.where(marked, torch.inf).argsort(dim=1, stable=True)
    return order.argsort(dim=1)


def _sum_and_count(values: Tensor) -> Tensor:
    defined = ~values.isnan()
    dtype = accumulation_dtype(values.device)
    return torch.stack([values.where(defined, 0.0).to(dtype).sum(), defined.sum().to(dtype)])
