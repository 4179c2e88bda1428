"""One step: from a batch to a prediction, a loss, and new weights."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.engine.diagnosis import explain, explain_backward, explain_network
from clarion.engine.engine import Engine
from clarion.engine.stage import Stage
from clarion.metrics.blocks import is_small
from clarion.metrics.collection import Measured

__all__ = ["NOT_RUN", "Output", "finish_step", "predict_step", "score_step", "train_step"]

NOT_RUN: Any = object()
"""What stands for the output of a network that was not called yet."""


@dataclass(slots=True)
class Output:
    """What a step made of a batch.

    Attributes:
        prediction: What the loss, the metrics and ``predict`` see.
        loss: The loss of the batch; None when predicting.
        terms: What the gradient is of: the loss, or the terms of several losses.
        noted: What the update measured, if the batch closed a step.
    """

    prediction: Any
    loss: Tensor | None = None
    terms: Any = None
    noted: Sequence[Measured] = ()


def train_step(
    engine: Engine, batch: Batch, stage: Stage, number: int, raw: Any = NOT_RUN
) -> Output:
    """Run a batch forward and backward, and update the weights when it closes a step.

    Args:
        engine: What the step works with.
        batch: The batch.
        stage: The stage.
        number: The number of the batch.
        raw: What the network returned for it, if it was called already.
    """
    update = engine.update
    assert update is not None
    if batch.opens_step:
        update.clear()
    with _together(engine, batch, number):
        output = score_step(engine, batch, stage, number, raw)
        _go_back(engine, batch, stage, number, output)
    return _close(engine, batch, stage, number, output)


def finish_step(engine: Engine, batch: Batch, stage: Stage, number: int, output: Output) -> Output:
    """Do what `train_step` does after a batch was run forward and scored."""
    _go_back(engine, batch, stage, number, output)
    return _close(engine, batch, stage, number, output)


def _go_back(engine: Engine, batch: Batch, stage: Stage, number: int, output: Output) -> None:
    update, loss = engine.update, output.terms
    assert update is not None
    update.guard.watch(loss, batch, number)
    try:
        update.backward(loss, batch.share)
    except Exception as error:
        explain_backward(error, loss, stage, number)
        raise


def _close(engine: Engine, batch: Batch, stage: Stage, number: int, output: Output) -> Output:
    update = engine.update
    assert update is not None
    if "on_backward_end" in engine.hooks:
        engine.hooks.fire("on_backward_end", number)
    if update.window is not None:
        update.window.append(batch)
    if batch.closes_step:
        update.apply(partial(_repeat, engine, stage, number) if update.window else None)
        output.noted = update.measured()
    return output


def score_step(
    engine: Engine, batch: Batch, stage: Stage, number: int, raw: Any = NOT_RUN
) -> Output:
    """Run a batch forward; compute its loss and update the metrics.

    Args: see `train_step`.
    """
    if batch.is_filler:
        return _uncounted(engine, batch, stage, number)
    objective = engine.objective
    if raw is NOT_RUN:
        raw = _call(engine, batch, stage, number)
    prediction = objective.prediction(raw, batch)
    try:
        batch.target = objective.align(prediction, batch.target)
        if engine.metrics.keeps_targets and not batch.lasts and is_small(batch.target):
            # It waits to be counted; a loader may fill its buffer anew by then.
            batch.target = batch.target.clone()
        loss: Any = objective.loss(raw, prediction, batch)
    except Exception as error:
        explain(error, "loss", stage, number, prediction, batch)
        raise
    metrics = engine.metrics
    try:
        metrics.update(prediction, batch.target, batch.inputs, batch.size)
    except Exception as error:
        explain(error, f"metric {metrics.failed}", stage, number, prediction, batch)
        raise
    return Output(prediction, _total(loss), terms=loss)


def _repeat(engine: Engine, stage: Stage, number: int, batch: Batch) -> None:
    """Run a batch forward and backward once more; metrics do not count it again."""
    update, objective = engine.update, engine.objective
    assert update is not None
    with _together(engine, batch, number):
        with engine.metrics.aside():
            raw = _call(engine, batch, stage, number)
            loss = objective.loss(raw, objective.prediction(raw, batch), batch)
        update.backward(loss, batch.share)


def predict_step(
    engine: Engine, batch: Batch, stage: Stage, number: int, raw: Any = NOT_RUN
) -> Output:
    """Run a batch forward.

    Args: see `train_step`.
    """
    if raw is NOT_RUN:
        raw = _call(engine, batch, stage, number)
    return Output(engine.objective.prediction(raw, batch))


def _uncounted(engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
    """Run a filler as any batch; neither the loss over the pass nor a metric counts it."""
    objective, metrics = engine.objective, engine.metrics
    with metrics.aside():
        raw = _call(engine, batch, stage, number)
        prediction = objective.prediction(raw, batch)
        batch.target = objective.align(prediction, batch.target)
        loss: Any = objective.loss(raw, prediction, batch)
    metrics.pass_over()
    return Output(prediction, _total(loss), terms=loss)


def _together(engine: Engine, batch: Batch, number: int) -> AbstractContextManager[Any]:
    """Return the context in which this rank's gradients meet those of the others."""
    progress = engine.progress
    return engine.strategy.synchronising(batch.closes_step, progress.epoch, progress.step, number)


def _total(terms: Any) -> Any:
    return terms.sum() if isinstance(terms, Tensor) and terms.ndim else terms


def _call(engine: Engine, batch: Batch, stage: Stage, number: int) -> Any:
    precision = engine.precision
    try:
        with precision.arithmetic():
            output = engine.forward(*batch.args, **batch.kwargs)
    except Exception as error:
        explain_network(error, stage, number, batch, engine.network)
        raise
    return precision.widen(output)
