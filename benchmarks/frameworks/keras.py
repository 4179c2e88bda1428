"""Keras 3 with torch as its backend."""

import os

os.environ["KERAS_BACKEND"] = "torch"

from collections.abc import Iterator
from typing import Any

import keras
import torch
from jobs import CLASSES, Job

__all__ = ["evaluate", "fit", "predict"]

OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
}


class Reader(keras.callbacks.Callback):
    """Reads loss and accuracy of each batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Read."""
        self.seen = float(logs["loss"]), float(logs["accuracy"])


class Network(keras.Model):
    """The job's network as a model of Keras."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.wrapped = keras.layers.TorchModuleWrapper(job.network)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the scores of a batch."""
        return self.wrapped(inputs)


def _model(job: Job, **options: Any) -> Any:
    model = Network(job)
    rates: dict[str, Any] = {"learning_rate": job.lr}
    if job.optimizer != "sgd":
        rates["epsilon"] = 1e-8  # torch's default
    if job.optimizer == "adamw":
        rates["weight_decay"] = 0.01
    model.compile(optimizer=OPTIMIZERS[job.optimizer](**rates), **options)
    return model


def _endless(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = _model(job, loss=loss, metrics=["accuracy"])
    options: dict[str, Any] = {"epochs": job.epochs, "verbose": 1 if job.progress else 0}
    options["callbacks"] = [Reader()] if job.reads_logs else []
    if job.x is not None:
        history = model.fit(job.x, job.y, batch_size=job.batch_size, **options)
    elif job.examples is not None:
        history = model.fit(job.loader(), **options)
    else:
        assert job.batches is not None
        if job.valid is not None:
            options["validation_data"] = _endless(job.valid)
            options["validation_steps"] = len(job.valid)
        steps = len(job.batches)
        history = model.fit(_endless(job.batches), steps_per_epoch=steps, **options)
    return float(history.history["loss"][-1])


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1, which Keras computes from one-hot targets."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model = _model(job, loss=loss, metrics=[keras.metrics.F1Score(average="macro")])
    assert job.y is not None
    one_hot = torch.nn.functional.one_hot(job.y, CLASSES).float()
    found = model.evaluate(job.x, one_hot, batch_size=job.batch_size, verbose=0)
    return float(found[0]), float(found[1])


def predict(job: Job) -> Any:
    """Return the scores of all examples, shape (N, C)."""
    return _model(job).predict(job.x, batch_size=job.batch_size, verbose=0)
