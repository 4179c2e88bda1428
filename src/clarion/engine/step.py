"""One step: from a batch to a prediction, a loss, and new weights."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clarion.data.batch import Batch
from clarion.engine.diagnosis import explained
from clarion.engine.engine import Engine
from clarion.metrics.collection import Measured

__all__ = ["Output", "predict_step", "score_step", "train_step"]


@dataclass(slots=True)
class Output:
    """What a step made of a batch.

    Attributes:
        prediction: What the loss, the metrics and ``predict`` see.
        loss: The loss of the batch; None when predicting.
        measured: What the batch metrics returned.
    """

    prediction: Any
    loss: Tensor | None = None
    measured: list[Measured] = field(default_factory=list)


def train_step(engine: Engine, batch: Batch, number: int) -> Output:
    """Run a batch forward and backward, and update the weights when it closes a step."""
    update = engine.update
    assert update is not None
    if batch.opens_step:
        update.clear()
    output = score_step(engine, batch, number)
    assert output.loss is not None
    with engine.strategy.synchronising(batch.closes_step):
        update.backward(output.loss, batch.share)
    output.loss = output.loss.detach()
    if "on_backward_end" in engine.hooks:
        engine.hooks.fire("on_backward_end", number)
    if batch.closes_step:
        update.apply()
    return output


def score_step(engine: Engine, batch: Batch, number: int) -> Output:
    """Run a batch forward; compute its loss and update the metrics."""
    objective = engine.objective
    raw = _call(engine, batch)
    prediction = objective.prediction(raw, batch)
    with explained("loss", prediction, batch, number):
        batch.target = objective.align(prediction, batch.target)
        loss = objective.loss(raw, prediction, batch)
    with torch.no_grad(), explained("metrics", prediction, batch, number):
        measured = engine.metrics.update(prediction, batch.target, batch.inputs)
    return Output(prediction, loss, measured)


def predict_step(engine: Engine, batch: Batch, number: int) -> Output:
    """Run a batch forward."""
    return Output(engine.objective.prediction(_call(engine, batch), batch))


def _call(engine: Engine, batch: Batch) -> Any:
    precision = engine.precision
    with precision.arithmetic():
        output = engine.forward(*batch.args, **batch.kwargs)
    return precision.widen(output)
