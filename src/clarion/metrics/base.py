"""What a metric is: a state that batches update and that a number is computed from."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from clarion.data.memory import version_of
from clarion.errors import DataError
from clarion.metrics.blocks import MOST_BATCHES, add_batches_ago, portions

__all__ = ["Metric", "StreamingMetric", "accumulation_dtype"]


class Metric(ABC, nn.Module):
    """A state that each batch updates, and a value computed from it.

    Subclasses implement ``update``, ``compute`` and ``reset``. One that also implements
    ``forward`` decides itself what the value of a single batch is; otherwise ``forward`` computes
    it from that batch alone, by the same three methods of a copy. One that implements ``forward``
    but not ``update`` is updated by calling it.
    """

    def forward(self, y_pred: Any, y_true: Any, *inputs: Any) -> Any:
        """Update the state with one batch and return the value of that batch alone.

        Args:
            y_pred: The prediction.
            y_true: The target.
            inputs: The inputs of the batch, for an ``update`` with a third parameter ``inputs``.

        Raises:
            NotImplementedError: If the class implements neither this nor ``update``.
        """
        if type(self).update is Metric.update:
            raise NotImplementedError(f"{type(self).__name__} implements no update or forward.")
        self.update(y_pred, y_true, *inputs)
        alone = self._copy_for_single_batches()
        alone.reset()
        alone.update(y_pred, y_true, *inputs)
        return alone.compute()

    def update(self, y_pred: Any, y_true: Any, *inputs: Any) -> None:
        """Update the state with one batch.

        Args: see `forward`.

        Raises:
            NotImplementedError: If the class implements neither this nor ``forward``.
        """
        if type(self).forward is Metric.forward:
            raise NotImplementedError(f"{type(self).__name__} implements no update or forward.")
        self.forward(y_pred, y_true, *inputs)

    @abstractmethod
    def compute(self) -> Any:
        """Return the value over everything since the last reset; the state stays as it is."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""

    def _copy_for_single_batches(self) -> Self:
        # Kept out of reach of nn.Module, in a list, so that it is no part of a state_dict.
        if "_alone" not in self.__dict__:
            self.__dict__["_alone"] = [copy.deepcopy(self)]
        alone: Self = self.__dict__["_alone"][0]
        return alone

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A metric that moved to another device needs a new copy, made there.
        self.__dict__.pop("_alone", None)
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]


class StreamingMetric(Metric):
    """A metric that is a function of sums over examples.

    Subclasses implement ``tally`` (what one batch adds to the sums) and ``conclude`` (the value
    that sums amount to). Nothing is read on the host, so nobody waits for the device; the value
    does not depend on how the examples were cut into batches; and sums of several ranks add up.

    Attributes:
        adds_up: Set to True in a class whose ``tally`` of several batches put together is the sum
            of theirs: many small batches are then counted by one call of it, and ``update`` and
            ``forward`` are not called for each. Not inherited.
    """

    adds_up: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_sums", None, persistent=False)
        self._waiting: list[tuple[Tensor, Tensor, int]] = []
        self._begun = False

    @property
    def sums(self) -> Tensor | None:
        """The sums over everything since the last reset; None before the first batch.

        Those of several ranks add up, and they may be put back.
        """
        if self._waiting:
            self._count_waiting()
        return self._buffers["_sums"]

    @sums.setter
    def sums(self, sums: Tensor | None) -> None:
        self._waiting, self._begun = [], sums is not None
        self._buffers["_sums"] = sums

    @abstractmethod
    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return what a batch adds to the sums: same shape each time, ``accumulation_dtype``."""

    @abstractmethod
    def conclude(self, sums: Tensor) -> Tensor:
        """Return the value, 0-d or one entry per name, that these sums amount to."""

    def forward(self, y_pred: Any, y_true: Any) -> Tensor:
        """Add a batch to the sums and return its own value, as a tensor on the device."""
        tallied = self.tally(y_pred, y_true)
        self._add(tallied)
        return self.conclude(tallied)

    def alone(self, y_pred: Any, y_true: Any) -> Tensor | float:
        """Return the value of one batch, which is not added to the sums; nobody waits for it."""
        return self.conclude(self.tally(y_pred, y_true))

    def defer(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Add a batch to the sums, at the latest when somebody looks at them.

        For a class that ``adds_up``. The first batch since a reset is added at once, so that what
        is wrong with the data is said where it happens.

        Args:
            y_pred: The prediction, detached. Nobody may change it afterwards.
            y_true: The target, likewise.

        Raises:
            DataError: If a batch that waited does not fit; ``error.batches_ago`` tells which.
        """
        if not self._begun:
            self.update(y_pred, y_true)
            return
        self._waiting.append((y_pred, y_true, version_of(y_pred)))
        if len(self._waiting) == MOST_BATCHES:
            self._count_waiting()

    def defer_all(self, y_preds: Sequence[Tensor], y_trues: Sequence[Tensor]) -> None:
        """Add several batches as `defer` does.

        Raises:
            DataError: See `defer`; ``error.batches_ago`` counts from the last of these.
        """
        start, last = 0, len(y_preds) - 1
        own = type(self).defer is not StreamingMetric.defer
        try:
            while start <= last and (own or not self._begun):
                self.defer(y_preds[start], y_trues[start])
                start += 1
        except Exception as error:
            add_batches_ago(error, last - start)
            raise
        versions = map(version_of, y_preds)
        batches = list(zip(y_preds, y_trues, versions, strict=True))[start:]
        for portion in portions(len(self._waiting), len(batches)):
            self._waiting += batches[portion]
            if len(self._waiting) < MOST_BATCHES:
                break
            try:
                self._count_waiting()
            except Exception as error:
                add_batches_ago(error, len(batches) - portion.stop)
                raise

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Add a batch to the sums."""
        self._add(self.tally(y_pred, y_true))

    def compute(self) -> Any:
        """Return the value since the last reset; nan before the first batch."""
        return self.compute_tensor()

    def compute_tensor(self) -> Tensor:
        """Return the same as `compute` on the device, without reading it on the host."""
        sums = self.sums
        return torch.tensor(torch.nan) if sums is None else self.conclude(sums)

    def reset(self) -> None:
        """Forget all sums."""
        self.sums = None

    def pass_state(self) -> dict[str, Any]:
        """Return what has been gathered since the last reset; batches that wait go on waiting."""
        waiting = [[y_pred, y_true] for y_pred, y_true, _ in self._waiting]
        return {"sums": self._buffers["_sums"], "waiting": waiting}

    def load_pass_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `pass_state` returned."""
        self.sums = state["sums"]
        self._waiting = [(one, other, version_of(one)) for one, other in state["waiting"]]

    def _count_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if any(version_of(y_pred) != version for y_pred, _, version in waiting):
            raise DataError(
                f"{type(self).__name__}: a prediction was changed in place after the network had "
                "returned it, before it was counted. Let the network return a copy, y.clone()."
            )
        try:
            predictions = torch.cat([y_pred for y_pred, _, _ in waiting])
            self._add(self.tally(predictions, torch.cat([y_true for _, y_true, _ in waiting])))
        except Exception:  # they differ in shape, or one of them is wrong: which is seen one by one
            self._count_singly([(y_pred, y_true) for y_pred, y_true, _ in waiting])

    def _count_singly(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        for ago, (y_pred, y_true) in zip(range(len(batches))[::-1], batches, strict=True):
            try:
                self._add(self.tally(y_pred, y_true))
            except Exception as error:
                add_batches_ago(error, ago)
                raise

    def _add(self, tallied: Tensor) -> None:
        sums = self._buffers["_sums"]
        if sums is None:
            self._buffers["_sums"], self._begun = tallied, True
            return
        if sums.shape != tallied.shape:
            raise DataError(
                f"{type(self).__name__}: a batch adds counts of shape {tuple(tallied.shape)} to "
                f"sums of shape {tuple(sums.shape)}. The number of classes or columns "
                "changed between batches; it must stay the same until the metric is reset."
            )
        self._buffers["_sums"] = sums + tallied

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self._waiting:
            self._count_waiting()
        return super()._apply(fn, recurse)


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices that have nothing wider (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64
