"""What an experiment trains with, and watches, where the user does not say."""

import re
import warnings
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
# The words of the names of metrics; a test goes through all that are registered.
_MORE_IS_BETTER = """
acc accuracy ami ap ari auc auprc auroc bertscore bleu ccc chrf cider cindex concordance corr
correct correlation coverage dice em exact explained fbeta fscore gain hit hits iou jaccard kappa
kendall kendalltau map mar matthews mcc meteor miou mrr ndcg nmi npv pck pearson ppv prauc
precision psnr r2 recall reward roc rocauc rouge score sensitivity similarity spearman specificity
ssim success tau tnr topk tpr
"""
_LESS_OF_ANYTHING = "loss error err"  # whatever it is called after: acc_loss, f1_error
_LESS_IS_BETTER = """
bce brier cer crossentropy deviance distance divergence ece entropy epoch fid fnr fpr hamming
hinge huber kl kldiv l1 l2 logloss lpips lr mae mape margin medae mse msle nll perplexity
ppl rmse rmsle smape ter time wer
"""


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
    if getattr(own, "__module__", "").startswith("transformers."):
        own = None  # it takes a configuration too: their models call it themselves
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
    if mode is None:
        mode = infer_mode(metric)
        if _mode_by_name(metric) is None:
            warnings.warn(
                f'Whether more or less of monitor_metric="{metric}" is better does not follow from '
                'its name; less is taken for better. Pass monitor_mode="max" if more is, or '
                'monitor_mode="min" if that is right.',
                stacklevel=3,
            )
    return Monitor(metric, mode)


def infer_mode(metric: str) -> str:
    """Return ``"max"`` if a key names something of which more is better, else ``"min"``.

    Example:
        >>> infer_mode("val_fscore_macro"), infer_mode("val_top5"), infer_mode("val_acc_loss")
        ('max', 'max', 'min')
    """
    return _mode_by_name(metric) or "min"


def _mode_by_name(metric: str) -> str | None:
    """Return what the words of a key say, None if they say nothing."""
    words = [word for word in re.split(r"[^a-z0-9]+", metric.lower()) if word]
    if _are_among(words, _LESS_OF_ANYTHING):
        return "min"
    # f1, f2, f0: F-beta; top5: top-k accuracy
    if _are_among(words, _MORE_IS_BETTER) or any(re.fullmatch(r"(f|top)\d+", w) for w in words):
        return "max"
    return "min" if _are_among(words, _LESS_IS_BETTER) else None


def _are_among(words: list[str], table: str) -> bool:
    """Tell whether a word is in a table, by itself or with a number: ``acc2`` is the second acc."""
    names = set(table.split())
    return any(word in names or word.rstrip("0123456789") in names for word in words)
