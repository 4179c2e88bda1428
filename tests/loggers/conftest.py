import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clarion.callbacks.base import Callback
from clarion.model import Model

Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Recorder(Callback):
    """Keeps the logs of batches and epochs in the order in which they come."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_train_batch_end(self, batch_number: int, logs: Any) -> None:
        self.logs.append(dict(logs))

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        self.logs.append(logs)


class Bomb(Callback):
    """Raises after some train batches."""

    def __init__(self, batches: int, error: BaseException | None = None) -> None:
        self.left = batches
        self.error = error or RuntimeError("boom")

    def on_train_batch_end(self, batch_number: int, logs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def bomb() -> type[Bomb]:
    return Bomb


@pytest.fixture
def make_model() -> Callable[..., Model]:
    def make(optimizer: Any = None, **options: Any) -> Model:
        torch.manual_seed(42)
        network = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        optimizer = optimizer or torch.optim.SGD(network.parameters(), lr=1e-3)
        if callable(optimizer):
            optimizer = optimizer(network)
        return Model(network, optimizer, "mse", **options)

    return make


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(4, 5, 1, generator=generator)
    return [(part, 3 * part - 1) for part in x]


@pytest.fixture
def read_csv() -> Callable[..., list[dict[str, str]]]:
    def read(path: Path | str, **options: Any) -> list[dict[str, str]]:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file, **options))

    return read
