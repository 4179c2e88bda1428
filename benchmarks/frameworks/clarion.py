"""clarion: `Model` and its own ways to take arrays, batches and texts."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from jobs import Job, padded

from clarion import Callback, Model

__all__ = ["evaluate", "fit", "predict", "prepared"]


class Reader(Callback):
    """Reads loss and accuracy of each batch."""

    def on_train_batch_end(self, batch_number: int, logs: Any) -> None:
        """Read."""
        self.seen = logs["loss"], logs["acc"]


def model_of(job: Job, **options: Any) -> Model:
    """Return the model that a job asks for."""
    if job.channels_last:
        options["channels_last"] = True
    optimizer = {"optim": job.optimizer, "lr": job.lr}
    precision = "bf16-mixed" if job.bf16 else "32"
    return Model(job.network, optimizer, "cross_entropy", precision=precision, **options)


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    return train(model_of(job, batch_metrics=["accuracy"]), job)


def prepared(job: Job) -> Callable[[Job], float]:
    """Return what trains as `fit` does, by steps that are compiled already.

    Args:
        job: A short one, of the same kind.
    """
    model = model_of(job, batch_metrics=["accuracy"], compile="step")
    train(model, replace(job, epochs=8))
    assert model.compilation is not None
    return partial(train, model)


def train(model: Model, job: Job) -> float:
    """Train a model; return the mean loss of the last epoch."""
    options: dict[str, Any] = {"epochs": job.epochs, "verbose": job.progress}
    if job.reads_logs:
        options["callbacks"] = [Reader()]
    if job.batches is not None:
        history = model.fit_generator(job.batches, job.valid, **options)
    elif job.examples is not None:
        if job.buckets:
            options["bucket_by"] = "length"
        history = model.fit_dataset(
            job.examples, batch_size=job.batch_size, collate_fn=padded, **options
        )
    else:
        history = model.fit(job.x, job.y, batch_size=job.batch_size, **options)
    return float(history[-1]["loss"])


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    model = model_of(job, epoch_metrics=["f1"])
    loss, f1 = model.evaluate(job.x, job.y, batch_size=job.batch_size, verbose=False)
    return float(loss), float(f1)


def predict(job: Job) -> Any:
    """Return the scores of all examples, shape (N, C)."""
    return model_of(job).predict(job.x, batch_size=job.batch_size, verbose=False)
