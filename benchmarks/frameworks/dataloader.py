"""The loop of the tutorials: a ``DataLoader``, and two numbers read in each step."""

from typing import Any

import torch
from jobs import Job, macro_f1
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["evaluate", "fit", "predict"]


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    network = job.network.train()
    optimizer = job.torch_optimizer()
    loader = job.loader()
    for _ in range(job.epochs):
        total, right, rows = 0.0, 0, 0
        for inputs, target in loader:
            optimizer.zero_grad()
            prediction = network(inputs)
            loss = cross_entropy(prediction, target)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(target)
            right += (prediction.argmax(1) == target).sum().item()
            rows += len(target)
        if job.valid is not None:
            _validate(network, job.valid)
    return total / rows


def _validate(network: nn.Module, loader: Any) -> tuple[float, float]:
    network.eval()
    total, right, rows = 0.0, 0.0, 0
    with torch.no_grad():
        for inputs, target in loader:
            prediction = network(inputs)
            total += cross_entropy(prediction, target).item() * len(target)
            right += (prediction.argmax(1) == target).sum().item()
            rows += len(target)
    network.train()
    return total / rows, right / rows


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    network, total, guesses, targets = job.network.eval(), 0.0, [], []
    with torch.no_grad():
        for inputs, target in job.loader(shuffle=False):
            prediction = network(inputs)
            total += cross_entropy(prediction, target).item() * len(target)
            guesses.append(prediction.argmax(1))
            targets.append(target)
    target = torch.cat(targets)
    return total / len(target), macro_f1(torch.cat(guesses), target)


def predict(job: Job) -> Tensor:
    """Return the scores of all examples, shape (N, C)."""
    network = job.network.eval()
    with torch.no_grad():
        return torch.cat([network(inputs) for inputs, _ in job.loader(shuffle=False)])
