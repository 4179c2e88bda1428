"""Accelerate: a loop by hand whose parts it prepares."""

from typing import Any

import torch
from accelerate import Accelerator
from jobs import Job, f1_of_counts
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["evaluate", "fit", "predict"]


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    accelerator = Accelerator(cpu=True)
    network, optimizer, loader = accelerator.prepare(
        job.network, job.torch_optimizer(), job.loader()
    )
    network.train()
    seen: list[tuple[float, float]] = []
    for _ in range(job.epochs):
        total, right, rows = torch.zeros(()), torch.zeros(()), 0
        for inputs, target in _shown(loader, job):
            optimizer.zero_grad()
            prediction = network(inputs)
            loss = cross_entropy(prediction, target)
            accelerator.backward(loss)
            optimizer.step()
            number = (prediction.argmax(1) == target).sum()
            total += loss.detach() * len(target)
            right += number
            rows += len(target)
            if job.reads_logs:
                seen.append((loss.item(), number.item() / len(target)))
        if job.valid is not None:
            _validate(network, job.valid)
    return (total / rows).item()


def _shown(loader: Any, job: Job) -> Any:
    if not job.progress:
        return loader
    from accelerate.utils import tqdm

    return tqdm(loader)


def _validate(network: Any, loader: Any) -> None:
    network.eval()
    total, right = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        for inputs, target in loader:
            prediction = network(inputs)
            total += cross_entropy(prediction, target) * len(target)
            right += (prediction.argmax(1) == target).sum()
    network.train()


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    accelerator = Accelerator(cpu=True)
    network, loader = accelerator.prepare(job.network, job.loader(shuffle=False))
    network.eval()
    total, counts, rows = torch.zeros(()), torch.zeros(100, dtype=torch.int64), 0
    with torch.no_grad():
        for inputs, own in loader:
            prediction, target = accelerator.gather_for_metrics((network(inputs), own))
            total += cross_entropy(prediction, target) * len(target)
            counts += torch.bincount(target * 10 + prediction.argmax(1), minlength=100)
            rows += len(target)
    return (total / rows).item(), f1_of_counts(counts)


def predict(job: Job) -> Tensor:
    """Return the scores of all examples, shape (N, C)."""
    accelerator = Accelerator(cpu=True)
    network, loader = accelerator.prepare(job.network, job.loader(shuffle=False))
    network.eval()
    with torch.no_grad():
        return torch.cat([accelerator.gather(network(inputs)) for inputs, _ in loader])
