"""What it costs to read batches so that they can be read again: a loader alone, and through a feed.

    python benchmarks/seed_cost.py

A feed gives each batch of a dataset that may draw random numbers a seed of its own. Loader and feed
take turns, and the shortest pass of each counts: that is what it takes when nothing else troubles
the machine. With worker processes the times are those between two batches as the training sees
them, loading in other processes included; they differ more from one try to the next.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from clarion.data.feed import Feed
from clarion.data.loaders import array_loader

WIDTH = 20


class Noisy(Dataset[Any]):
    """A user's dataset: each row gets some noise."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + torch.randn(WIDTH), self.y[index]


def seconds(begin: Callable[[], Iterable[Any]]) -> float:
    """Return how long a pass takes from its first batch on, when workers have begun."""
    batches = iter(begin())
    next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def compared(loader: Iterable[Any], runs: int) -> tuple[float, float]:
    """Return the shortest times of a pass, of the loader alone and through a feed."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        times[0].append(seconds(lambda: loader))
        times[1].append(seconds(lambda: Feed(loader).take(None, "the loader")))
    return min(times[0]), min(times[1])


def main(batches: int = 300, batch_size: int = 32, runs: int = 7) -> None:
    """Measure and print.

    Args:
        batches: Batches of a pass.
        batch_size: Examples of a batch.
        runs: Passes of each.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(batches * batch_size, WIDTH)
    y = torch.randint(0, 2, (len(x),))
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": True}
    loaders = {"arrays": array_loader({"x": x, "y": y}, **options)}
    for num_workers in (0, 2):
        told = f", {num_workers} workers"
        for dataset in (TensorDataset(x, y), Noisy(x, y)):
            name = "a dataset that draws" if isinstance(dataset, Noisy) else "TensorDataset"
            loaders[name + told] = DataLoader(dataset, num_workers=num_workers, **options)
    print(f"{'microseconds a batch':<34}{'alone':>9}{'feed':>9}{'more':>9}{'ratio':>9}")
    for name, loader in loaders.items():
        alone, fed = (1e6 * each / (batches - 1) for each in compared(loader, runs))
        print(f"{name:<34}{alone:>9.1f}{fed:>9.1f}{fed - alone:>9.1f}{fed / alone:>9.2f}")


if __name__ == "__main__":
    auto_cli(main)
