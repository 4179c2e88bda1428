"""Train steps of networks that are chains of plain layers: nothing is recorded."""

import math
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.engine.chains import Chain, surroundings
from clarion.engine.direct import DirectUpdate
from clarion.engine.engine import Engine
from clarion.engine.judges import Judge, judge_of
from clarion.engine.kernels import DirectStep, set_grad_enabled
from clarion.engine.kinds import MOST_KINDS, Kind, kind_of
from clarion.engine.nonfinite import Unguarded
from clarion.engine.stage import Stage
from clarion.engine.step import Output, train_step
from clarion.engine.tight import TightStep

__all__ = ["ChainedStep"]


class ChainedStep:
    """Does what `TightStep` does, and calls the kernels of layers and their derivatives itself.

    It is for a network that is a `Chain` of layers, all of whose parameters the optimizer has, and
    a loss of torch's own. The first two batches of a kind are left to the tight step, and on the
    second one chain and loss are compared with autograd, bit for bit; those after it are taken
    here. What is amiss in any way is left to the ordinary step, which says what it is.

    Args:
        tight: The tight step.
        update: Its update.
        chain: The network.
        judge: The loss.
    """

    def __init__(self, tight: TightStep, update: DirectUpdate, chain: Chain, judge: Judge) -> None:
        self._tight = tight
        self._update = update
        self._chain = chain
        self._judge = judge
        self._guarded = not isinstance(update.guard, Unguarded)
        self._agrees: dict[Kind, bool | None] = {}  # None: it came once
        self._direct: DirectStep | None = None
        self._places: list[int] = []
        self._surroundings = surroundings()

    @classmethod
    def of(cls, engine: Engine, tight: TightStep) -> "ChainedStep | None":
        """Return the step of an engine, None if its network or its loss is something else."""
        update, loss = engine.update, engine.objective.only_function
        if loss is None or not isinstance(update, DirectUpdate):
            return None
        if surroundings()[:3] != (True, False, False):
            return None
        chain, judge = Chain.of(engine.network), judge_of(loss.func)
        if chain is None or judge is None:
            return None
        return cls(tight, update, chain, judge)

    def __call__(self, engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
        """Run a batch forward and backward, and update the weights."""
        tight, update = self._tight, self._update
        if len(batch.args) != 1:
            return tight(engine, batch, stage, number)
        given = batch.target
        kind, direct = kind_of(batch.args[0], given), tight.direct_for(batch)
        if not (direct and kind and self._agrees.get(kind) and self._is_right(direct, batch)):
            output = tight(engine, batch, stage, number)
            if kind is not None:
                self._learn(kind, batch, given, output)
            return output
        update.release(direct)
        found = self._run(batch.args[0], batch.target)
        if found is None:
            return train_step(engine, batch, stage, number)
        prediction, loss, value, update.gradients = found
        if not batch.lasts:
            batch.target = batch.target.clone()
        tight.count(batch, stage, number, prediction, value, lasts=True)
        return tight.take(batch, number, Output(prediction, loss, loss))

    def _run(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Any, list[Tensor]] | None:
        """Return prediction, loss, its value as it is counted, and gradients; None for trouble."""
        try:
            set_grad_enabled(False)
            prediction, passed = self._chain.forward(x)
            loss, kept = self._judge.value(prediction, target)
            value = loss.item() if self._guarded else loss.detach()
            if self._guarded and not math.isfinite(value):
                return None
            slope = self._judge.slope(kept)
            if slope is None:
                return None
            gradients = self._chain.backward(passed, slope)
        except Exception:
            return None
        finally:
            set_grad_enabled(True)
        return prediction, loss, value, list(map(gradients.__getitem__, self._places))

    def _is_right(self, direct: DirectStep, batch: Batch) -> bool:
        """Tell whether nothing has changed since chain and autograd were found to agree."""
        if direct is not self._direct or batch.args[0].requires_grad or batch.target.requires_grad:
            return False
        same = direct.is_asked_for() and self._chain.is_current()
        if not same or (self._judge.may_change and not self._judge.is_current()):
            return False
        return surroundings() == self._surroundings

    def _learn(self, kind: Kind, batch: Batch, given: Any, output: Output) -> None:
        """Find out whether batches of a kind can be taken without the tight step.

        That is worth while for the second one only: many a kind, such as that of a smaller last
        batch, comes once.

        Args:
            kind: The kind.
            batch: A batch of it.
            given: The target that it had before it was scored.
            output: What was made of it.
        """
        direct = self._tight.direct_for(batch)
        if direct is not None and direct is not self._direct:
            self._direct, self._agrees = direct, dict.fromkeys(self._agrees)
            self._places = self._chain.places_of(direct.parameters)
        if kind not in self._agrees:
            if len(self._agrees) < MOST_KINDS:
                self._agrees[kind] = None
            return
        if self._agrees[kind] is None and self._tight.knows(output.prediction, given):
            self._agrees[kind] = (
                bool(self._places)
                and direct is self._direct
                and surroundings() == self._surroundings
                and self._chain.is_current()
                and self._judge.is_current()
                and self._chain.agrees(batch.args[0])
                and self._judge.agrees(output.prediction.detach(), given)
            )
