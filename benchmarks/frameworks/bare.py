"""A loop by hand that reads nothing on the host before the end: the yardstick."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from jobs import Job, f1_of_counts, padded
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

__all__ = ["evaluate", "fit", "predict"]


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    network = job.network.train()
    if job.channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = job.torch_optimizer()
    precision = torch.autocast("cpu", torch.bfloat16) if job.bf16 else nullcontext()
    seen: list[tuple[float, float]] = []
    for _ in range(job.epochs):
        total, right, rows = torch.zeros(()), torch.zeros(()), 0
        for inputs, target in batches(job):
            optimizer.zero_grad()
            with precision:
                prediction = network(inputs)
            loss = cross_entropy(prediction.float(), target)
            loss.backward()
            optimizer.step()
            number = (prediction.argmax(1) == target).sum()
            total += loss.detach() * len(target)
            right += number
            rows += len(target)
            if job.reads_logs:
                seen.append((loss.item(), number.item() / len(target)))
        if job.valid is not None:
            validate(network, job.valid)
        result = (total / rows).item(), (right / rows).item()
    return result[0]


def batches(job: Job) -> Iterator[Any]:
    """Yield the batches of an epoch; arrays are gathered by index, a batch at a time."""
    if job.batches is not None:
        yield from job.batches
    elif job.examples is not None:
        yield from text_loader(job)
    else:
        assert job.x is not None
        assert job.y is not None
        for rows in torch.randperm(len(job.x)).split(job.batch_size):
            inputs = job.x.index_select(0, rows)
            if job.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs, job.y.index_select(0, rows)


def text_loader(job: Job) -> Any:
    """Return a loader of padded texts, of similar length if asked for."""
    if not job.buckets:
        return job.loader()
    assert job.examples is not None
    order = sorted(torch.randperm(len(job.examples)).tolist(), key=job.examples.lengths.__getitem__)
    parts = [order[i : i + job.batch_size] for i in range(0, len(order), job.batch_size)]
    shuffled = [parts[i] for i in torch.randperm(len(parts)).tolist()]
    return DataLoader(job.examples, batch_sampler=shuffled, collate_fn=padded)


def validate(network: nn.Module, loader: Any) -> tuple[float, float]:
    """Return mean loss and accuracy over batches."""
    network.eval()
    total, right, rows = torch.zeros(()), torch.zeros(()), 0
    with torch.no_grad():
        for inputs, target in loader:
            prediction = network(inputs)
            total += cross_entropy(prediction, target) * len(target)
            right += (prediction.argmax(1) == target).sum()
            rows += len(target)
    network.train()
    return (total / rows).item(), (right / rows).item()


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    assert job.x is not None
    assert job.y is not None
    network, rows = job.network.eval(), len(job.x)
    total, counts = torch.zeros(()), torch.zeros(100, dtype=torch.int64)
    with torch.inference_mode():
        for start in range(0, rows, job.batch_size):
            inputs, target = (part[start : start + job.batch_size] for part in (job.x, job.y))
            prediction = network(inputs)
            total += cross_entropy(prediction, target) * len(target)
            counts += torch.bincount(target * 10 + prediction.argmax(1), minlength=100)
    return (total / rows).item(), f1_of_counts(counts)


def predict(job: Job) -> Tensor:
    """Return the scores of all examples, shape (N, C)."""
    assert job.x is not None
    network = job.network.eval()
    scores = torch.empty(len(job.x), 10)
    with torch.inference_mode():
        for start in range(0, len(job.x), job.batch_size):
            stop = start + job.batch_size
            scores[start:stop] = network(job.x[start:stop])
    return scores
