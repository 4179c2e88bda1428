"""Networks that run on several batches in a row, before anything else is done with them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from sys import getrefcount
from time import perf_counter
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.data.memory import may_be_shared
from clarion.data.nested import detached
from clarion.engine.chained_scores import ChainedScores
from clarion.engine.diagnosis import explain, explain_network
from clarion.engine.engine import Engine
from clarion.engine.kinds import Kind, kind_of
from clarion.engine.stage import Stage

__all__ = ["Ahead", "nobody_listens"]

_SECONDS = 0.02  # who waits for a line of progress does not notice


class Ahead:
    """Runs small batches of known kinds in a row, without gradients.

    What Python does for a batch takes less time if it is done for many in a row: a network leaves
    little of it in the processor's cache. So each batch is handed on with what the network has
    returned for it, and the step does the rest. A batch of a kind that the step does not know ends
    a row. What the network may write into again, since somebody else holds it too, is copied before
    the network runs on the next batch. A network that is a chain of plain layers runs as one.

    Args:
        engine: What a step works with, the network above all.
        known: The kinds of batches that the step knows; it adds to them.
        judge: The loss as a function of prediction and target; None for no loss.
        count: What counts the batches of a row: called with them, the stage, and the number of the
            first one.

    Attributes:
        chained: What runs in place of a network that is a chain.
    """

    def __init__(
        self,
        engine: Engine,
        known: set[Kind],
        judge: Callable[..., Any] | None = None,
        count: Callable[[Sequence[Batch], Stage, int], None] | None = None,
    ) -> None:
        self._network = engine.forward
        self._known = known
        self._judge = judge
        self._count = count
        self.chained = ChainedScores(engine.network, judge)

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
                    count = self._run_chained(left) or self._run_row(engine, stage, left, number)
                    stop = start + count
                row = some[start:stop]
                ran = [batch for batch in row if batch.ran_ahead]
                if ran and self._count is not None:
                    self._count(ran, stage, number)
                yield from row
                number += stop - start
                start = stop

    def _run_chained(self, batches: list[Batch]) -> int:
        """Run batches by the kernels of the layers, and return how many: some need the network."""
        chained = self.chained
        if not chained.are_right():
            return 0
        until = perf_counter() + _SECONDS
        for count, batch in enumerate(batches):
            batch.ran = None if perf_counter() > until else chained.of(batch)
            if batch.ran is None:
                return count
        return len(batches)

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
                if (
                    type(loss) is not Tensor
                    or may_be_shared(getrefcount(loss), loss)
                    or loss.requires_grad
                ):
                    loss = detached(loss, to_numpy=False)
            if may_be_shared(getrefcount(prediction), prediction) or prediction.requires_grad:
                prediction = prediction.detach().clone()
            batch.ran = prediction, loss
            if self.chained.compare(batch, prediction) or perf_counter() > until:
                break
        return count


def nobody_listens(engine: Engine, stage: Stage) -> bool:
    """Tell whether nobody has to hear of each batch before the next one is run."""
    hooks = engine.hooks
    if stage.batch_begin in hooks:
        return False
    return stage.batch_end not in hooks or hooks.only_at_times(stage.batch_end) is not None
