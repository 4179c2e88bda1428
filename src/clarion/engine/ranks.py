"""What several ranks have to agree on, so that each does what the others do."""

from typing import Any

import torch
from torch import Tensor

from clarion.distributed.strategy import Strategy
from clarion.engine.engine import Engine
from clarion.errors import DataError, InvalidTypeError, quoted
from clarion.metrics.base import Metric
from clarion.metrics.collection import MetricSet
from clarion.metrics.indexed import IndexedArgumentMetric
from clarion.metrics.partial import SUMMING
from clarion.metrics.rows import RowMetric
from clarion.metrics.several import SumOfLosses
from clarion.metrics.sklearn_metrics import SKLearnMetrics

__all__ = ["check_metrics", "is_stopped", "note_rank", "unite"]

_ROWS = (RowMetric, SKLearnMetrics)


def is_stopped(engine: Engine) -> bool:
    """Return whether the train pass ends after this optimizer step, on every rank.

    Ranks ask each other at each step, or every few steps where a device works ahead of the host.
    """
    control, strategy = engine.control, engine.strategy
    if strategy.world_size == 1:
        return control.stop_immediately
    step = engine.progress.step
    if step % strategy.asks_every and step != engine.last_step:
        return False
    control.stop_immediately = strategy.agree(control.stop_immediately)
    return control.stop_immediately


def note_rank(error: BaseException, engine: Engine) -> None:
    """Tell in an error which rank it happened on, and where, if there are several."""
    strategy, progress = engine.strategy, engine.progress
    if strategy.world_size == 1:
        return
    lost = "" if not _is_lost(error) else " Another rank has ended: its own error says why."
    error.add_note(
        f"This happened on rank {strategy.rank} of {strategy.world_size}, in epoch "
        f"{progress.epoch + 1}, after optimizer step {progress.step}.{lost}"
    )


def unite(metrics: MetricSet, strategy: Strategy) -> None:
    """Give the loss and the metrics of every rank what those of all ranks have gathered.

    Raises:
        DataError: If a rank has seen no example, and a metric of torchmetrics needs one.
    """
    if strategy.world_size == 1:
        return
    leaves = [leaf for metric in _all(metrics) for leaf in _leaves(metric)]
    summing = [leaf for leaf in leaves if issubclass(type(leaf), SUMMING)]
    _unite_sums(summing, strategy)
    for leaf in leaves:
        if issubclass(type(leaf), _ROWS):
            _unite_rows(leaf, strategy)
        elif _is_torchmetric(leaf):
            _check_seen(leaf, strategy)


def check_metrics(metrics: MetricSet, strategy: Strategy) -> None:
    """Raise ``InvalidTypeError`` if a metric has a state that ranks cannot put together."""
    if strategy.world_size == 1:
        return
    leaves = [leaf for metric in _all(metrics) for leaf in _leaves(metric)]
    known = (*SUMMING, *_ROWS)
    unknown = [m for m in leaves if not issubclass(type(m), known) and not _is_torchmetric(m)]
    if unknown:
        raise InvalidTypeError(
            f"Metrics of {quoted(type(metric).__name__ for metric in unknown)} keep a state that "
            f"clarion cannot put together over {strategy.world_size} ranks. Derive from "
            "clarion.StreamingMetric or clarion.RowMetric, or from torchmetrics.Metric; or train "
            "on one process."
        )


def _all(metrics: MetricSet) -> list[Any]:
    listed = (metrics.loss, *metrics.batch_metrics, *metrics.epoch_metrics)
    return [metric for metric in listed if metric is not None]


def _leaves(metric: Any) -> list[Any]:
    """Return the metrics that hold the state of one."""
    if issubclass(type(metric), SumOfLosses):
        return list(metric.parts)
    if issubclass(type(metric), IndexedArgumentMetric):
        return _leaves(metric.metric) if isinstance(metric.metric, Metric) else []
    return [metric]


def _unite_sums(metrics: list[Any], strategy: Strategy) -> None:
    own = [metric.sums for metric in metrics]
    described = [None if one is None else tuple(one.shape) for one in own]
    shapes = strategy.gather(described)
    sums: list[Tensor] = []
    present: list[Any] = []
    device = next((one.device for one in own if one is not None), None)
    for number, metric in enumerate(metrics):
        # A rank without any example knows no shape of its own.
        shape = next((ranks[number] for ranks in shapes if ranks[number] is not None), None)
        if shape is None:
            continue
        mine = own[number]
        zeros = torch.zeros(shape, dtype=torch.float64, device=device)
        sums.append(zeros if mine is None else mine)
        present.append(metric)
    for metric, whole in zip(present, strategy.reduce(sums), strict=True):
        metric.sums = whole


def _unite_rows(metric: Any, strategy: Strategy) -> None:
    own = metric.rows
    parts = [rows for rows in strategy.gather(own) if rows]
    if parts:
        device = own[0].device if own else None
        metric.rows = [torch.cat(list(column)).to(device) for column in zip(*parts, strict=True)]


def _check_seen(metric: Any, strategy: Strategy) -> None:
    seen = strategy.gather(bool(metric.update_called))
    if any(seen) and not all(seen):
        raise DataError(
            f"Rank {seen.index(False)} has seen no example, and {type(metric).__name__} of "
            "torchmetrics cannot put together states of which one is empty. Let batches have at "
            f"least {strategy.world_size} examples, one for each rank."
        )


def _is_torchmetric(metric: Any) -> bool:
    return any(cls.__module__.startswith("torchmetrics.") for cls in type(metric).__mro__)


def _is_lost(error: BaseException) -> bool:
    text = str(error)
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
