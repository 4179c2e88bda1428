"""Networks that run on several batches in a row, before anything else is done with them."""

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.data.memory import version_of
from clarion.engine.diagnosis import explain, explain_network
from clarion.engine.engine import Engine
from clarion.engine.stage import Stage
from clarion.errors import DataError

__all__ = ["Ahead", "Kind", "kind_of", "nobody_listens"]

Kind = tuple[Any, ...]

_Returned = tuple[Tensor, int]  # a prediction, and how often it had been changed in place by then

_HELD = 3  # predictions
_SECONDS = 0.02  # who waits for a line of progress does not notice


class Ahead:
    """Runs small batches of known kinds in a row, without gradients.

    What Python does for a batch takes less time if it is done for many in a row: a network leaves
    little of it in the processor's cache. So each batch is handed on with what the network has
    returned for it, and the step does the rest. A batch of a kind that the step does not know ends
    a row. A network that writes into memory that it has returned before is not run ahead: its first
    predictions, which are held, show it.

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
        self._held: list[_Returned] = []
        self._overwrites = False

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
                if self._known and not self._overwrites:
                    row = some[start:] if self._is_trusted else some[start:stop]
                    stop = start + self._run_row(engine, stage, row, number)
                yield from some[start:stop]
                number += stop - start
                start = stop

    @property
    def _is_trusted(self) -> bool:
        return len(self._held) >= _HELD

    def _run_row(self, engine: Engine, stage: Stage, batches: list[Batch], number: int) -> int:
        """Run batches in a row, and return how many."""
        is_trusted = self._is_trusted
        judge = self._judge if is_trusted else None
        returned = list(self._held)
        places = {prediction.data_ptr() for prediction, _ in returned}
        until = perf_counter() + _SECONDS
        for count, batch in enumerate(batches, start=1):
            loss = None
            try:
                prediction = self._network(*batch.args)
            except Exception as error:
                explain_network(error, stage, number + count - 1, batch, engine.network)
                raise
            batch.ran = (prediction,)
            target = None if self._judge is None else batch.target
            if kind_of(prediction, target) not in self._known:
                break
            if judge is not None:
                try:
                    loss = judge(prediction, target)
                except Exception as error:
                    explain(error, "loss", stage, number + count - 1, prediction, batch)
                    raise
            if is_trusted:
                batch.ran = prediction, loss
            returned.append((prediction, version_of(prediction)))
            places.add(prediction.data_ptr())
            if len(places) < len(returned) or perf_counter() > until:
                break
        self._look_at(returned, places, batches[:count], stage, number)
        return count

    def _look_at(
        self,
        returned: list[_Returned],
        places: set[int],
        batches: list[Batch],
        stage: Stage,
        number: int,
    ) -> None:
        """See whether what was returned in a row, and before it, is still what it was."""
        changed = any(version_of(prediction) != version for prediction, version in returned)
        fresh = returned[len(self._held) :]
        if self._is_trusted and any(version_of(p) != version for p, version in fresh):
            raise DataError(
                f"From {stage.name} batch {number} on the network wrote into memory that it had "
                "returned before, so that an earlier prediction changed. Let it return a copy, "
                "y.clone()."
            )
        if changed or len(places) < len(returned):
            self._overwrites = True
            for batch in batches:
                # What fills buffers in turn has come back to the first one: the others are next.
                if batch.ran is not None and len(batch.ran) == 2:
                    batch.ran = batch.ran[0].clone(), batch.ran[1]
        if not self._is_trusted:
            self._held = returned


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
