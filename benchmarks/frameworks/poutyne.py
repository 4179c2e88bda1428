"""Poutyne: `Model`, which clarion's is a superset of."""

from typing import Any

from jobs import Job
from poutyne import F1, Callback, Model

__all__ = ["evaluate", "fit", "predict"]


class Reader(Callback):
    """Reads loss and accuracy of each batch."""

    def on_train_batch_end(self, batch_number: int, logs: dict[str, float]) -> None:
        """Read."""
        self.seen = logs["loss"], logs["acc"]


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    model = Model(job.network, job.torch_optimizer(), "cross_entropy", batch_metrics=["accuracy"])
    options: dict[str, Any] = {"epochs": job.epochs, "verbose": job.progress}
    options["callbacks"] = [Reader()] if job.reads_logs else []
    if job.x is not None:
        history = model.fit(job.x, job.y, batch_size=job.batch_size, **options)
    else:
        history = model.fit_generator(job.loader(), job.valid, **options)
    return float(history[-1]["loss"])


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    model = Model(job.network, None, "cross_entropy", epoch_metrics=[F1(average="macro")])
    loss, f1 = model.evaluate(job.x, job.y, batch_size=job.batch_size, verbose=False)
    return float(loss), float(f1)


def predict(job: Job) -> Any:
    """Return the scores of all examples, shape (N, C)."""
    model = Model(job.network, None, None)
    return model.predict(job.x, batch_size=job.batch_size, verbose=False)
