"""Networks that run on several batches in a row, before anything else is done with them."""

from collections.abc import Callable, Iterable, Iterator
from sys import getrefcount
from time import perf_counter
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.data.memory import may_be_shared
from clarion.data.nested import detached
from clarion.engine.diagnosis import explain, explain_network
from clarion.engine.engine import Engine
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
    the network runs on the next batch.

    Args:
        network: The network.
        known: The kinds of batches that the step knows; it adds to them.
        judge: The loss as a function of prediction and target; None for no loss.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        known: set[Kind],
        judge: Callable[..., Any] | None = None,
    ) -> None:
        self._network = network
        self._known = known
        self._judge = judge

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
                    stop = start + self._run_row(engine, stage, some[start:], number)
                yield from some[start:stop]
                number += stop - start
                start = stop

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
