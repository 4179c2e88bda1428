import os

import pytest
import torch
from torch import nn

from clarion.experiment import training
from clarion.experiment.experiment import Experiment


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    """Neither wait for the disk nor draw, unless a test asks for the drawing."""
    torch.manual_seed(0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    if "draws" not in request.fixturenames:
        monkeypatch.setattr(training, "save_plots", lambda *args, **kwargs: None)


@pytest.fixture
def draws():
    """Let the experiment draw its plots."""


@pytest.fixture
def data():
    """Inputs and targets of a regression: x, y, and a pair to validate on."""
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    return x[:20], y[:20], (x[20:], y[20:])


@pytest.fixture
def make(tmp_path):
    """Return a function that builds an experiment on the regression, in the same directory."""

    def make(directory=None, network=None, **options):
        torch.manual_seed(1)
        network = nn.Linear(3, 1) if network is None else network
        options = {"task": "reg", "optimizer": {"optim": "sgd", "lr": 0.1}, **options}
        return Experiment(directory or tmp_path / "run", network, **options)

    return make


@pytest.fixture
def train(data):
    """Return a function that trains an experiment quietly on the data."""

    def train(experiment, epochs, **options):
        options = {"verbose": False, "disable_tensorboard": True, **options}
        return experiment.train_data(*data, epochs=epochs, **options)

    return train


@pytest.fixture
def trained(make, train):
    """Return an experiment after three epochs."""
    experiment = make()
    train(experiment, 3)
    return experiment
