"""The loss and the metrics of a model, updated and computed together."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from clarion.data.nested import detached
from clarion.errors import CheckpointError, DataError, InvalidArgumentError, StepError, quoted
from clarion.metrics.base import Metric, StreamingMetric
from clarion.metrics.blocks import Later, is_small, lasting
from clarion.metrics.broadcasting import watching_broadcasts
from clarion.metrics.decomposable import DecomposableMetric, names_inputs
from clarion.metrics.names import Names, flatten_metric_names, names_as_list
from clarion.metrics.partial import SUMMING, load_pass_state, pass_state, set_aside
from clarion.metrics.several import SumOfLosses
from clarion.metrics.values import values_by_name
from clarion.metrics.wrapping import original_names

__all__ = ["Measured", "MetricSet"]

Measured = tuple[Sequence[str], Sequence[str], Any]
"""The names of values in the logs, the metric's own names of them, and what it returned."""

_WAITS: Any = Later  # a class stays itself in a copy or a pickle of a model

_counting: WeakKeyDictionary["MetricSet", int] = WeakKeyDictionary()
"""The thread that counts with the metrics; no attribute, which a copy would have too."""


class MetricSet:
    """A loss, batch metrics and epoch metrics: one update a batch, one value of each a pass.

    Args:
        loss: The wrapped loss, or None.
        batch_metrics: Wrapped metrics, called with each batch.
        batch_names: The name or names of each.
        epoch_metrics: Wrapped metrics, updated with each batch.
        epoch_names: The name or names of each.

    Attributes:
        failed: The names of the metric whose update raised an error last, quoted.
        only_adds_up: Whether all metrics count several batches at once.
        keeps_targets: Whether small targets are kept until several batches are counted at once.
    """

    def __init__(
        self,
        loss: Any,
        batch_metrics: Sequence[Any] = (),
        batch_names: Sequence[Names] = (),
        epoch_metrics: Sequence[Any] = (),
        epoch_names: Sequence[Names] = (),
    ) -> None:
        self.loss = loss
        self.batch_metrics = list(batch_metrics)
        self.epoch_metrics = list(epoch_metrics)
        self._several = loss if issubclass(type(loss), SumOfLosses) else None
        self._loss_names = ["loss"] if self._several is None else self._several.names
        self.batch_names = [*self._loss_names[1:], *flatten_metric_names(batch_names)]
        self.epoch_names = flatten_metric_names(epoch_names)
        twice = set(self._loss_names[1:]) & {*flatten_metric_names(batch_names), *self.epoch_names}
        if twice:
            raise InvalidArgumentError(
                f"{quoted(sorted(twice))}: a part of the loss is logged under this name, and also "
                "a metric. Name the metric otherwise, as in (name, metric)."
            )
        self._batch = [_Entry(m, n) for m, n in zip(batch_metrics, batch_names, strict=True)]
        self._epoch = [
            _Entry(m, n, epoch=True) for m, n in zip(epoch_metrics, epoch_names, strict=True)
        ]
        self._entries = [*self._batch, *self._epoch]
        self._some_add_up = any(entry.adds_up for entry in self._entries)
        self.keeps_targets = self._some_add_up or (
            issubclass(type(loss), DecomposableMetric) and loss.target_weight is not None
        )
        self.only_adds_up = all(entry.adds_up for entry in self._entries)
        self._all_wait: list[Any] = [_WAITS for _ in self._entries]
        self._last: tuple[Any, Any, list[Any]] = (None, None, [])
        self._dirty = False
        self.failed = ""

    def modules(self) -> Iterator[nn.Module]:
        """Yield the loss and the metrics that are modules, which move with the model."""
        yield from (metric for metric in self._all() if isinstance(metric, nn.Module))

    def update(self, y_pred: Any, y_true: Any, inputs: Any, size: int | None = None) -> None:
        """Update every metric with a batch.

        Args:
            y_pred: The prediction.
            y_true: The target, which nobody changes afterwards if it is small.
            inputs: The inputs of the batch.
            size: The number of its examples.
        """
        waits = self._some_add_up and is_small(y_pred) and is_small(y_true)
        if waits and self.only_adds_up:
            self.wait(lasting(y_pred), y_true)
            return
        # Somebody else's function may change what it is given, and what waits must not change.
        kept = y_pred.detach().clone() if waits else y_pred
        given = y_true.clone() if self.keeps_targets and is_small(y_true) else y_true
        values: list[Any] = []
        # No graph is kept alive, nor in the way of a copy of the model.
        last = kept if waits else detached(y_pred, to_numpy=False, lasts=True)
        self._last = (last, y_true, values)
        entry = None
        try:
            for entry in self._entries:
                if waits and entry.adds_up:
                    entry.metric.defer(kept, y_true)
                    values.append(_WAITS)
                else:
                    with torch.no_grad():
                        values.append(entry.call(y_pred, given, inputs, size))
        except Exception:
            self.failed = quoted(entry.names) if entry else ""
            raise

    def wait(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Update every metric with a small batch, where all add up.

        Args:
            y_pred: The prediction, detached. Nobody may change it afterwards.
            y_true: The target, likewise.
        """
        self._last = (y_pred, y_true, self._all_wait)
        entry = None
        try:
            for entry in self._entries:
                entry.metric.defer(y_pred, y_true)
        except Exception:
            self.failed = quoted(entry.names) if entry else ""
            raise

    def wait_all(self, y_preds: Sequence[Tensor], y_trues: Sequence[Tensor]) -> None:
        """Update every metric with several batches, as `wait` does with each."""
        entry = None
        try:
            for entry in self._entries:
                entry.metric.defer_all(y_preds, y_trues)
        except Exception:
            self.failed = quoted(entry.names) if entry else ""
            raise

    def look_at(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Take a batch that `wait_all` was given for the last one, which `measured` is about."""
        self._last = (y_pred, y_true, self._all_wait)

    def pass_over(self) -> None:
        """Take note of a batch that is not counted: its values are nan."""
        nothing = [torch.full((len(entry.names),), torch.nan) for entry in self._batch]
        self._last = (None, None, nothing)

    def measured(self) -> list[Measured]:
        """Return what the batch metrics say of the last batch; what waits is a `Later`."""
        several = [] if self._several is None else [*self._several.measured()]
        return self._measured(self._last, several)

    def measured_later(self) -> Callable[[], list[Measured]]:
        """Return what returns the same, about the batch that is the last one now."""
        if self._several is not None:
            return partial(list, self.measured())
        return partial(self._measured, self._last, [])

    def _measured(
        self, last: tuple[Any, Any, list[Any]], several: list[Measured]
    ) -> list[Measured]:
        y_pred, y_true, values = last
        found = list(several)
        for entry, value in zip(self._batch, values, strict=False):  # epoch metrics come after them
            shown = Later(entry.metric, y_pred, y_true) if value is _WAITS else value
            found.append((entry.names, entry.own_names, shown))
        return found

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Be in one pass inside: begin with nothing that a pass that failed left behind.

        A pass inside another one, as when a batch hook evaluates, has sums of its own. Metrics
        that cannot be set aside lose what they had gathered then, and a warning says so.

        Raises:
            StepError: If another thread is in a pass.
        """
        with self._counted_here() as is_inner:
            if is_inner:
                yield from self._inner_pass()
                return
            if self._dirty:
                self.reset()
            self._dirty = True
            yield

    def _inner_pass(self) -> Iterator[None]:
        with set_aside(self._known(), others=True) as left:
            for metric in left:
                metric.reset()
            _warn_of_states(left, "cover the batches after this only")
            try:
                yield
            finally:
                self._dirty = True  # the pass around this one goes on

    @contextmanager
    def one_batch(self) -> Iterator[None]:
        """Score one batch inside, which is part of no pass.

        Metrics that cannot be set aside count it in a pass that is under way; a warning says so.
        """
        with self._counted_here() as is_inner:
            if not is_inner:
                with self.aside():
                    yield
                return
            with set_aside(self._known(), others=True) as left:
                _warn_of_states(left, "count this batch too")
                yield

    def compute(self, prefix: str) -> dict[str, Any]:
        """End a pass: return the values over it by name, still on the device, and reset.

        Args:
            prefix: What stands before each name.
        """
        values: dict[str, Any] = {}
        if self.loss is not None:
            values |= _values(self._loss_names, self._loss_names, self.loss)
            self.loss.reset()
        for entries in (self._batch, self._epoch):
            for entry in entries:
                values |= _values(entry.names, entry.own_names, entry.metric)
            for entry in entries:
                entry.metric.reset()
        self._dirty, self._last = False, (None, None, [])
        return {prefix + name: value for name, value in values.items()}

    def reset(self) -> None:
        """Forget everything."""
        for metric in self._known():
            metric.reset()
        self._dirty, self._last = False, (None, None, [])

    def state_dict(self) -> list[dict[str, Any] | None]:
        """Return what each has gathered of the pass under way; None for those that cannot tell."""
        return [None if one is None else pass_state(one) for one in self._all()]

    def load_state_dict(
        self, state: Sequence[Mapping[str, Any] | None], device: torch.device | None = None
    ) -> None:
        """Go on with what `state_dict` returned, in a pass that has just begun.

        Args:
            state: The state, its tensors on the CPU.
            device: Where tensors go that were on a device; None for where they are.

        Raises:
            CheckpointError: If the metrics are others.
        """
        metrics = self._all()
        if len(metrics) != len(state):
            raise CheckpointError(
                f"The checkpoint was written inside an epoch with {len(state) - 1} metrics; the "
                f"model has {len(metrics) - 1}. Build it with the same ones."
            )
        lost = []
        for metric, one in zip(metrics, state, strict=True):
            if metric is not None and one is not None:
                load_pass_state(metric, one, device)
            elif metric is not None:
                lost.append(type(metric).__name__)
        if lost:
            warnings.warn(
                f"The training goes on inside an epoch, and what {quoted(lost)} had gathered is "
                "not in the checkpoint: the value over this epoch covers the batches from here on. "
                "A metric whose attributes are tensors and plain values is kept.",
                stacklevel=2,
            )

    def _all(self) -> list[Any]:
        return [self.loss, *self.batch_metrics, *self.epoch_metrics]

    def _known(self) -> list[Any]:
        return [metric for metric in self._all() if metric is not None]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep what is updated inside from the sums of a pass that may be under way.

        What other metrics are updated with is forgotten before the next pass.
        """
        with self._counted_here(), set_aside(self._known()) as left:
            try:
                yield
            finally:
                self._dirty = self._dirty or bool(left)

    @contextmanager
    def _counted_here(self) -> Iterator[bool]:
        """Keep other threads out inside; tell whether this one was in before."""
        is_inner = self in _counting
        if _counting.setdefault(self, get_ident()) != get_ident():
            raise StepError(
                "Two threads train or evaluate the same Model at once, and their sums would mix. "
                "Give each thread a model of its own with metrics of its own, Model(model.network, "
                'None, "cross_entropy", batch_metrics=["acc"]), or let them wait for each other '
                "with a threading.Lock. Only predict may run in several threads."
            )
        try:
            yield is_inner
        finally:
            if not is_inner:
                del _counting[self]


def _warn_of_states(metrics: Sequence[Any], consequence: str) -> None:
    if metrics:
        warnings.warn(
            "The model is evaluated inside a train pass. What "
            f"{quoted(type(metric).__name__ for metric in metrics)} gathered so far cannot be set "
            f"aside, so the value over the epoch will {consequence}. "
            "Evaluate in on_epoch_end, or with another Model of the same network.",
            stacklevel=3,
        )


class _Entry:
    """One metric, how it is called and what its values are called."""

    def __init__(self, metric: Any, names: Names, *, epoch: bool = False) -> None:
        self.metric = metric
        self.names = names_as_list(names)
        own = original_names(metric)
        self.own_names = self.names if own is None else names_as_list(own)
        # Said by the class itself: one below it may count otherwise.
        says_so = vars(type(metric)).get("adds_up") is True and metric.adds_up
        self.adds_up = bool(says_so and issubclass(type(metric), StreamingMetric))
        # Not the bound method: torchmetrics keeps its own in each object, and that of a copy of
        # this one would still be the original's.
        self._is_updated = epoch
        self._wants_inputs = _wants_inputs(metric, epoch)
        self._is_unseen = issubclass(type(metric), DecomposableMetric)
        self._takes_size = type(metric) is DecomposableMetric  # one below it may take less

    def call(self, y_pred: Any, y_true: Any, inputs: Any, size: int | None) -> Any:
        if self._is_unseen:
            self._is_unseen = False
            with watching_broadcasts(y_pred, y_true, f"The metric {quoted(self.names)}"):
                return self.call(y_pred, y_true, inputs, size)
        if self._takes_size:
            return self.metric.count(y_pred, y_true, inputs, size)
        call = self.metric.update if self._is_updated else self.metric
        if self._wants_inputs:
            return call(y_pred, y_true, inputs)
        return call(y_pred, y_true)


def _wants_inputs(metric: Any, epoch: bool) -> bool:
    if issubclass(type(metric), DecomposableMetric):
        return metric.wants_inputs is True
    if not issubclass(type(metric), Metric):
        return False
    # What the class implements itself decides; the other one only hands on.
    own = [name for name in ("forward", "update") if _implements(metric, name)]
    called = "update" if epoch and "update" in own else next(iter(own), None)
    return called is not None and names_inputs(getattr(metric, called))


def _implements(metric: Any, name: str) -> bool:
    return getattr(type(metric), name) is not getattr(Metric, name)


def _values(names: Sequence[str], own: Sequence[str], metric: Any) -> Mapping[str, Any]:
    try:
        value = metric.compute_tensor() if _computes_on_device(metric) else metric.compute()
    except DataError as error:
        ago = getattr(error, "batches_ago", None)
        if ago is None:
            raise
        place = f"the batch {ago} before the last one" if ago else "the last batch"
        raise DataError(f"The metric {quoted(names)} failed on {place}: {error}") from error
    return values_by_name(value, names, own)


def _computes_on_device(metric: Any) -> bool:
    """Tell whether ``compute_tensor`` returns what ``compute`` does, which a user may overrule."""
    kind = type(metric)
    return issubclass(kind, SUMMING) and kind.compute.__module__.startswith("clarion.metrics.")
