"""The steps of the commonest case, with nothing looked up that is known beforehand."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.engine.ahead import Ahead
from clarion.engine.diagnosis import explain, explain_backward, explain_network
from clarion.engine.direct import DirectUpdate
from clarion.engine.engine import Engine
from clarion.engine.gates import HostCheck
from clarion.engine.gradients import gradients_of
from clarion.engine.kernels import DirectStep
from clarion.engine.kinds import MOST_KINDS, Kind, kind_of
from clarion.engine.nonfinite import HostGuard, Unguarded
from clarion.engine.precision import Full
from clarion.engine.stage import Stage
from clarion.engine.step import NOT_RUN, Output, finish_step, predict_step, score_step, train_step
from clarion.layers.modes import Inference
from clarion.metrics.blocks import is_small, lasting
from clarion.metrics.decomposable import DecomposableMetric

__all__ = ["TightPredict", "TightScore", "TightStep"]


class _Tight:
    """What scores batches of a kind that was scored the ordinary way before.

    Args:
        engine: What a step works with.
        loss: Its loss.
    """

    def __init__(self, engine: Engine, loss: DecomposableMetric) -> None:
        self._network = engine.forward
        self._lasting = Tensor.detach if isinstance(engine.forward, Inference) else lasting
        self._loss = loss
        self._judge = loss.func
        self._metrics = engine.metrics
        self._reads = False
        self._known: set[Kind] = set()

    def _score(
        self, engine: Engine, batch: Batch, stage: Stage, number: int
    ) -> tuple[Output | None, Any]:
        """Return the output, and its loss, as a number if the guard looks at it anyway.

        For a batch of another kind these are None, and what the network returned.
        """
        target = batch.target
        try:
            prediction = self._network(*batch.args)
        except Exception as error:
            explain_network(error, stage, number, batch, engine.network)
            raise
        if kind_of(prediction, target) not in self._known:
            return None, prediction
        if not batch.lasts:
            target = batch.target = target.clone()
        try:
            loss = self._judge(prediction, target)
        except Exception as error:
            explain(error, "loss", stage, number, prediction, batch)
            raise
        is_number = type(loss) is Tensor and loss.numel() == 1
        value = loss.item() if self._reads and is_number else loss
        self.count(batch, stage, number, self._lasting(prediction), value)
        return Output(prediction, loss, loss), value

    def count(
        self,
        batch: Batch,
        stage: Stage,
        number: int,
        prediction: Tensor,
        loss: Any,
        *,
        lasts: bool = False,
    ) -> None:
        """Count a batch of a known kind.

        Args:
            batch: The batch.
            stage: The stage.
            number: The number of the batch.
            prediction: The prediction, detached. Nobody may change it afterwards.
            loss: What the loss function returned, or its value as a number.
            lasts: Whether nobody will write into the memory of the loss again.
        """
        target, part = batch.target, "loss"
        try:
            self._loss.note(loss, prediction, target, batch.size, lasts=lasts)
            part = "metric"
            self._metrics.wait(prediction, target)
        except Exception as error:
            part = part if part == "loss" else f"metric {self._metrics.failed}"
            explain(error, part, stage, number, prediction, batch)
            raise

    def _learn(self, engine: Engine, batch: Batch, given: Any, prediction: Any) -> None:
        """Take note of the kind of a batch that was scored the ordinary way.

        Args:
            engine: What a step works with.
            batch: The batch.
            given: The target that it had before.
            prediction: The prediction.
        """
        kind = kind_of(prediction, given)
        if kind is None or not (batch.is_plain and is_small(prediction) and is_small(given)):
            return
        if len(self._known) < MOST_KINDS and engine.objective.takes_as_it_is(prediction, given):
            self._known.add(kind)


class TightScore(_Tight):
    """Does what `score_step` does, for batches of a kind that went through it before.

    It is for one network in its own arithmetic, one loss and metrics that count in blocks, and
    small outputs. What is measured is the same, bit for bit.

    Args: see `_Tight`.

    Attributes:
        ahead: What may run batches before their step.
    """

    def __init__(self, engine: Engine, loss: DecomposableMetric) -> None:
        super().__init__(engine, loss)
        self.ahead = Ahead(engine, self._known, loss.func, self._count_row)

    @classmethod
    def of(cls, engine: Engine) -> "TightScore | None":
        """Return the tight step of an engine, None if it is not of the kind."""
        loss = engine.objective.only_function
        return cls(engine, loss) if loss is not None and _is_simple(engine) else None

    def __call__(self, engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
        """Run a batch forward, compute its loss and update the metrics."""
        raw, ran = NOT_RUN, batch.ran
        if ran is not None:
            raw = ran[0]
            if len(ran) == 2:  # it was counted with its row
                self._metrics.look_at(raw, batch.target)
                return Output(raw, ran[1], ran[1])
        elif batch.is_plain and not batch.is_filler:
            chained = self.ahead.chained
            found = chained.of(batch) if chained.are_right() else None
            if found is not None:
                if not batch.lasts:
                    batch.target = batch.target.clone()
                self.count(batch, stage, number, *found, lasts=True)
                return Output(found[0], found[1], found[1])
            output, raw = self._score(engine, batch, stage, number)
            if output is not None:
                chained.compare(batch, output.prediction)
                return output
        given = batch.target
        output = score_step(engine, batch, stage, number, raw)
        self._learn(engine, batch, given, output.prediction)
        return output

    def _count_row(self, batches: Sequence[Batch], stage: Stage, number: int) -> None:
        """Count batches of known kinds that the network has run on.

        Args:
            batches: The batches.
            stage: The stage.
            number: The number of the first one.
        """
        predictions, losses = zip(*(batch.ran or () for batch in batches), strict=True)
        sizes = [batch.size for batch in batches] if self._loss.target_weight is None else None
        targets, part = [batch.target for batch in batches], "loss"
        try:
            self._loss.note_all(losses, predictions, targets, sizes)
            part = "metric"
            self._metrics.wait_all(predictions, targets)
        except Exception as error:
            part = part if part == "loss" else f"metric {self._metrics.failed}"
            last = len(batches) - 1
            wrong = max(0, last - getattr(error, "batches_ago", 0))
            explain(error, part, stage, number + last, predictions[wrong], batches[wrong])
            raise


class TightPredict:
    """Does what `predict_step` does, for a network in its own arithmetic that may run ahead.

    Args:
        engine: What a step works with.

    Attributes:
        ahead: What may run batches before their step.
    """

    def __init__(self, engine: Engine) -> None:
        self._known: set[Kind] = set()
        self.ahead = Ahead(engine, self._known)

    @classmethod
    def of(cls, engine: Engine) -> "TightPredict | None":
        """Return the tight step of an engine, None if it is not of the kind."""
        return cls(engine) if _is_alone(engine) else None

    def __call__(self, engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
        """Run a batch forward."""
        ran = batch.ran
        if ran is not None and len(ran) == 2:
            return Output(ran[0])
        output = predict_step(engine, batch, stage, number, NOT_RUN if ran is None else ran[0])
        kind = kind_of(output.prediction, None)
        if kind is None or not (batch.is_plain and is_small(output.prediction)):
            return output
        if len(self._known) < MOST_KINDS:
            self._known.add(kind)
        return output


class TightStep(_Tight):
    """Does what `train_step` does, for batches of a kind that went through `train_step` before.

    It is for one network on the host in its own arithmetic, one loss and metrics that count in
    blocks, a direct update in which nobody acts on gradients, and small outputs. Whatever is not as
    it was (shapes, a loss that is not finite, an optimizer state that was loaded) is left to
    `train_step`. What is learnt and measured is the same, bit for bit.

    Args:
        engine: What a step works with.
        update: Its update.
        loss: Its loss.
    """

    def __init__(self, engine: Engine, update: DirectUpdate, loss: DecomposableMetric) -> None:
        super().__init__(engine, loss)
        self._update = update
        self._progress = engine.progress
        self._guarded = self._reads = not isinstance(update.guard, Unguarded)
        self._check = HostCheck()
        self._has_company = update.has_company
        # Only where callbacks act inside a pass there is more to ask.
        self._is_right = update.is_right if update.shares_gradients else DirectStep.is_current

    @classmethod
    def of(cls, engine: Engine) -> "TightStep | None":
        """Return the tight step of an engine, None if it is not of the kind."""
        update, loss = engine.update, engine.objective.only_function
        if not isinstance(update, DirectUpdate) or loss is None:
            return None
        guard = update.guard
        on_host = isinstance(guard, Unguarded) or (
            isinstance(guard, HostGuard) and not guard.keeps_statistics
        )
        if not (on_host and update.is_undisturbed and _is_simple(engine)):
            return None
        return cls(engine, update, loss)

    def __call__(self, engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
        """Run a batch forward and backward, and update the weights."""
        update, direct = self._update, self.direct_for(batch)
        if direct is None:
            return self._learning(engine, batch, stage, number)
        update.release(direct)
        output, value = self._score(engine, batch, stage, number)
        if output is None:
            return self._learning(engine, batch, stage, number, value)
        loss = output.terms
        is_finite = not self._guarded or math.isfinite(value)
        if not (is_finite and direct.is_asked_for() and direct.is_alone()):
            update.guard.open()
            return finish_step(engine, batch, stage, number, output)
        try:
            update.gradients = gradients_of(loss, direct.parameters)
        except Exception as error:
            explain_backward(error, loss, stage, number)
            raise
        return self.take(batch, number, output)

    def direct_for(self, batch: Batch) -> DirectStep | None:
        """Return the direct step to take with a batch, None if it needs an ordinary one."""
        direct = self._update.direct
        if direct is None or not batch.is_plain or not self._is_right(direct):
            return None
        return direct

    def knows(self, prediction: Any, target: Any) -> bool:
        """Tell whether batches of this kind are scored without being looked at."""
        return kind_of(prediction, target) in self._known

    def take(self, batch: Batch, number: int, output: Output) -> Output:
        """Update the weights, if the gradients are finite; return the output.

        Args:
            batch: The batch.
            number: The number of the batch.
            output: What was made of it. Its gradients are the update's.
        """
        update = self._update
        direct = update.direct
        assert direct is not None
        if update.shares_gradients:
            update.share()
        gradients = direct.fitting(update.gradients)
        if gradients is None or (self._guarded and self._check.is_bad(gradients)):
            update.guard.open()
            update.guard.watch(output.terms, batch, number)
            update.apply()
            return output
        if not self._has_company:
            direct(gradients)
            self._progress.step += 1
            return output
        step = update.prepare(None)
        direct(gradients)
        update.finish(step)
        return output

    def _learning(
        self, engine: Engine, batch: Batch, stage: Stage, number: int, raw: Any = NOT_RUN
    ) -> Output:
        """Take an ordinary step, and learn what kind of batch it can be done without for."""
        given = batch.target
        output = train_step(engine, batch, stage, number, raw)
        self._learn(engine, batch, given, output.prediction)
        return output


def _is_simple(engine: Engine) -> bool:
    """Tell whether batches are scored by one function, in the network's own arithmetic."""
    return _is_alone(engine) and engine.metrics.only_adds_up


def _is_alone(engine: Engine) -> bool:
    """Tell whether nothing stands around the network that is called."""
    return engine.runs_network_alone and type(engine.precision) is Full
