"""Networks that run on several batches in a row, before anything else is done with them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from sys import getrefcount
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from clarion.data.batch import Batch
from clarion.data.memory import may_be_shared
from clarion.data.nested import detached
from clarion.engine.chains import Chain
from clarion.engine.diagnosis import explain, explain_network
from clarion.engine.engine import Engine
from clarion.engine.gradients import is_same
from clarion.engine.judges import judge_of
from clarion.engine.stage import Stage

__all__ = ["Ahead", "Kind", "kind_of", "nobody_listens"]

Kind = tuple[Any, ...]

_SECONDS = 0.02  # who waits for a line of progress does not notice


class Ahead:
    """Runs small batches of known kinds in a row, without gradients.

    What Python does for a batch takes less time if it is done for many in a row: a network leaves
    little of it in the processor's cache. So each batch is handed on with what the network has
    returned for it, and the step does the rest. A batch of a kind that the step does not know ends
    a row. What the network may write into again, since somebody else holds it too, is copied before
    the network runs on the next batch. A network that is a `Chain` runs as one, after both were
    compared on a batch of the same kind.

    Args:
        network: The network.
        known: The kinds of batches that the step knows; it adds to them.
        judge: The loss as a function of prediction and target; None for no loss.
        count: What counts the batches of a row: called with them, the stage, and the number of the
            first one.
    """

    def __init__(
        self,
        network: nn.Module,
        known: set[Kind],
        judge: Callable[..., Any] | None = None,
        count: Callable[[Sequence[Batch], Stage, int], None] | None = None,
    ) -> None:
        self._network = network
        self._known = known
        self._judge = judge
        self._count = count
        # What torch's own losses return is nobody else's, as what its layers return.
        self._chain = Chain.of(network) if judge is None or judge_of(judge) else None
        self._agreed: set[Kind | None] = set()

    def compare(self, batch: Batch, prediction: Tensor) -> None:
        """Compare the chain with what the network returned for a batch of a kind that is known."""
        chain, kind = self._chain, self._chained_kind(batch)
        if chain is None or kind is None or kind in self._agreed or not chain.is_current():
            return
        with suppress(Exception), torch.no_grad():
            if is_same(chain.run(batch.args[0]), prediction):
                self._agreed.add(kind)

    def run(self, engine: Engine, stage: Stage, batches: Iterable[list[Batch]]) -> Iterator[Batch]:
        """Yield batches in their order, as many as can be after the network has run on them.

        Args:
            engine: What a step works with.
            stage: The stage.
            batches: Some batches at a time, alike but for their sizes; nobody fills their memory
                anew.
        """
        number = 1
        for some in batches:
            start = 0
            while start < len(some):
                stop = start + 1
                if self._known:
                    left = some[start:]
                    stop = start + (
                        self.run_chained(left) or self._run_row(engine, stage, left, number)
                    )
                row = some[start:stop]
                ran = [batch for batch in row if batch.ran_ahead]
                if ran and self._count is not None:
                    self._count(ran, stage, number)
                yield from row
                number += stop - start
                start = stop

    def run_chained(self, batches: list[Batch]) -> int:
        """Run batches by the kernels of the layers, up to one of another kind; return how many."""
        chain, judge, loss = self._chain, self._judge, None
        if chain is None or not self._agreed or not chain.is_current():
            return 0
        until = perf_counter() + _SECONDS
        for count, batch in enumerate(batches):
            if self._chained_kind(batch) not in self._agreed or perf_counter() > until:
                return count
            try:
                prediction = chain.run(batch.args[0])
                if judge is not None:
                    loss = judge(prediction, batch.target)
            except Exception:  # the network itself tells what is wrong
                return count
            batch.ran = prediction, loss
        return len(batches)

    def _chained_kind(self, batch: Batch) -> Kind | None:
        if len(batch.args) != 1:
            return None
        return kind_of(batch.args[0], None if self._judge is None else batch.target)

    def _run_row(self, engine: Engine, stage: Stage, batches: list[Batch], number: int) -> int:
        """Run batches in a row, and return how many."""
        judge = self._judge
        until = perf_counter() + _SECONDS
        for count, batch in enumerate(batches, start=1):
            loss = None
            try:
                prediction = self._network(*batch.args)
            except Exception as error:
                explain_network(error, stage, number + count - 1, batch, engine.network)
                raise
            target = None if judge is None else batch.target
            if kind_of(prediction, target) not in self._known:
                batch.ran = (prediction,)
                break
            if judge is not None:
                try:
                    loss = judge(prediction, target)
                except Exception as error:
                    explain(error, "loss", stage, number + count - 1, prediction, batch)
                    raise
                if type(loss) is not Tensor or may_be_shared(getrefcount(loss), loss):
                    loss = detached(loss, to_numpy=False)
            if may_be_shared(getrefcount(prediction), prediction) or prediction.requires_grad:
                prediction = prediction.detach().clone()
            batch.ran = prediction, loss
            if perf_counter() > until:
                break
        return count


def kind_of(prediction: Any, target: Any) -> Kind | None:
    """Return what batches have in common that are treated alike; None for what is no tensor.

    Args:
        prediction: What the network returned.
        target: The target; None to leave it out of account.
    """
    if type(prediction) is not Tensor:
        return None
    if target is None:
        return prediction.shape, prediction.dtype
    if type(target) is not Tensor:
        return None
    return prediction.shape, prediction.dtype, target.shape, target.dtype


def nobody_listens(engine: Engine, stage: Stage) -> bool:
    """Tell whether nobody has to hear of each batch before the next one is run."""
    hooks = engine.hooks
    if stage.batch_begin in hooks:
        return False
    return stage.batch_end not in hooks or hooks.only_at_times(stage.batch_end) is not None
