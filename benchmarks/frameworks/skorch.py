"""skorch: a network as an estimator of scikit-learn."""

from typing import Any

import torch
from jobs import Job, macro_f1, padded
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EpochScoring, PrintLog, ProgressBar
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import Dataset

__all__ = ["evaluate", "fit", "predict"]


class Reader(Callback):
    """Reads the loss of each batch."""

    def on_batch_end(self, net: Any, **_: Any) -> None:
        """Read."""
        self.seen = net.history[-1, "batches", -1, "train_loss"]


class Batches(Dataset[Any]):
    """Batches made already, as a dataset."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches.batches[index]


class Made:
    """An iterator over batches made already, in place of a ``DataLoader``."""

    def __init__(self, dataset: Any, **_: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Any:
        return iter(self.dataset.batches)


class Classifier(NeuralNetClassifier):
    """A classifier whose batches carry their targets, and whose network gives scores."""

    def check_data(self, X: Any, y: Any = None) -> None:  # noqa: N803
        """Accept datasets whose targets come with them."""


def _net(job: Job, **options: Any) -> Any:
    callbacks: list[Any] = []
    if job.batches is None:
        callbacks.append(("acc", EpochScoring("accuracy", on_train=True, lower_is_better=False)))
    if job.progress:
        callbacks += [ProgressBar(), PrintLog()]
    if job.reads_logs:
        callbacks.append(Reader())
    return Classifier(
        job.network,
        criterion=nn.CrossEntropyLoss,
        optimizer=type(job.torch_optimizer()),
        lr=job.lr,
        batch_size=job.batch_size,
        max_epochs=job.epochs,
        train_split=None if job.valid is None else predefined_split(Batches(job.valid)),
        iterator_train__shuffle=True,
        callbacks=callbacks,
        classes=list(range(job.classes)),
        verbose=0,
        device="cpu",
        **options,
    )


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    if job.x is not None:
        net = _net(job).fit(job.x, job.y)
    elif job.examples is not None:
        net = _net(job, iterator_train__collate_fn=padded).fit(job.examples, None)
    else:
        net = _net(job, iterator_train=Made, iterator_valid=Made).fit(Batches(job.batches), None)
    return float(net.history[-1, "train_loss"])


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    net = _net(job).initialize()
    assert job.y is not None
    scores = torch.as_tensor(net.forward(job.x))
    loss = nn.functional.cross_entropy(scores, job.y)
    return loss.item(), macro_f1(scores, job.y)


def predict(job: Job) -> Any:
    """Return the probabilities of all examples, shape (N, C)."""
    return _net(job).initialize().predict_proba(job.x)
