"""What an experiment trains with, and watches, where the user does not say."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from clarion.callbacks.monitor import check_mode
from clarion.errors import InvalidArgumentError, suggestion

__all__ = [
    "NOTHING",
    "Monitor",
    "check_task",
    "choose_loss",
    "choose_metrics",
    "choose_monitor",
    "infer_mode",
]

_TASKS = {"classif": "classification", "reg": "regression"}
_LOSSES = {"classif": "cross_entropy", "reg": "mse"}
_METRICS = {
    ("classif", "batch_metrics"): ["accuracy"],
    ("classif", "epoch_metrics"): ["f1"],
}
_MORE_IS_BETTER = """
acc accuracy ap auc auprc auroc bleu coverage dice exact fbeta fscore gain hit iou jaccard kappa
kendall kendalltau map mcc matthews mrr ndcg pearson precision psnr r2 recall reward rouge score
sensitivity similarity spearman specificity ssim tau topk
"""
_LESS_IS_BETTER = "loss error err"


@dataclass(frozen=True)
class Monitor:
    """What decides which epoch is the best.

    Attributes:
        metric: The key of the epoch logs; None if nothing is watched.
        mode: ``"min"`` or ``"max"``; None if nothing is watched.
    """

    metric: str | None
    mode: str | None


NOTHING = Monitor(None, None)
"""That no epoch is the best."""


def check_task(task: str | None) -> str | None:
    """Return the beginning by which a task is known, ``"classif"`` or ``"reg"``; None for None.

    Raises:
        InvalidArgumentError: If the task begins otherwise.
    """
    if task is None:
        return None
    for start in _TASKS:
        if str(task).startswith(start):
            return start
    raise InvalidArgumentError(
        f'There is no task "{task}"{suggestion(str(task), _TASKS.values()) or "."} Known: '
        '"classification", "regression" (or their beginnings "classif", "reg").'
    )


def choose_loss(network: nn.Module, task: str | None, given: Any) -> Any:
    """Return the loss function given, else the network's own, else the task's, else None."""
    if given is not None:
        return given
    own = getattr(network, "loss_function", None)
    return own if own is not None else _LOSSES.get(task or "")


def choose_metrics(network: nn.Module, task: str | None, name: str, given: Any) -> Any:
    """Return metrics as ``choose_loss`` does; an empty list counts as not given.

    Args:
        network: May have an attribute ``name``.
        task: As ``check_task`` returns it.
        name: ``"batch_metrics"`` or ``"epoch_metrics"``.
        given: What the user gave.
    """
    if given is not None and len(given) > 0:
        return given
    own = getattr(network, name, None)
    return own if own is not None and len(own) > 0 else _METRICS.get((task or "", name))


def choose_monitor(
    task: str | None, *, monitoring: bool, metric: str | None, mode: str | None
) -> Monitor:
    """Return what is watched: what is given, else what the task suggests.

    Args:
        task: As ``check_task`` returns it.
        monitoring: Whether anything is watched at all.
        metric: The key given.
        mode: The mode given; if None it follows from the key, see ``infer_mode``.

    Raises:
        InvalidArgumentError: If ``mode`` is neither ``"min"`` nor ``"max"``.
    """
    if mode is not None:
        check_mode("Experiment", mode)
    if not monitoring:
        return NOTHING
    if metric is None:
        metric = "val_acc" if task == "classif" else "val_loss"
    return Monitor(metric, mode or infer_mode(metric))


def infer_mode(metric: str) -> str:
    """Return ``"max"`` if a key names something of which more is better, else ``"min"``.

    Example:
        >>> infer_mode("val_fscore_macro"), infer_mode("val_top5"), infer_mode("val_acc_loss")
        ('max', 'max', 'min')
    """
    words = [word for word in re.split(r"[^a-z0-9]+", metric.lower()) if word]
    if set(_LESS_IS_BETTER.split()).intersection(words):
        return "min"
    # f1, f2, f0: F-beta; top5: top-k accuracy; acc2: the second metric of this name
    names = set(_MORE_IS_BETTER.split())
    known = any(
        word in names or word.rstrip("0123456789") in names or re.fullmatch(r"(f|top)\d+", word)
        for word in words
    )
    return "max" if known else "min"
