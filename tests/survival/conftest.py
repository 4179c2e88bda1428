"""Processes that things are done to: children that are limited, killed, or left alone."""

import json
import os
import traceback

import pytest
import torch
from torch import nn

from clarion.experiment import training
from clarion.experiment.experiment import Experiment
from clarion.experiment.history import read_log

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(training, "save_plots", lambda *args, **kwargs: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def build():
    """Return a function that builds an experiment on a small regression."""

    def build(directory, hidden=16, **options):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(4, hidden), nn.Dropout(0.2), nn.Linear(hidden, 1))
        options = {"optimizer": {"optim": "adamw", "lr": 0.01}, "task": "reg", **options}
        return Experiment(directory, network, **options)

    return build


@pytest.fixture
def train():
    """Return a function that trains an experiment quietly."""

    def train(experiment, epochs, **options):
        options = {"batch_size": 8, "verbose": False, "disable_tensorboard": True, **options}
        return experiment.train_data(X, Y, (X, Y), epochs=epochs, **options)

    return train


@pytest.fixture
def rows():
    """The inputs and targets of the regression."""
    return X, Y


@pytest.fixture
def in_child():
    """Return a function that calls another in a forked process and returns what that returned.

    What it returns has to fit into JSON; an error in there is one here.
    """

    def in_child(function):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read)
                answer = {"returned": function()}
            except BaseException:
                answer = {"raised": traceback.format_exc()}
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
        os.close(write)
        with open(read, "rb") as file:
            text = file.read()
        os.waitpid(pid, 0)
        answer = json.loads(text)
        assert "raised" not in answer, answer["raised"]
        return answer["returned"]

    return in_child


@pytest.fixture
def assert_same():
    """Return a function that compares what two experiments left behind, bit for bit."""

    def assert_same(first, second):
        for name in ("model_checkpoint_filename", "optimizer_checkpoint_filename"):
            one, other = (torch.load(getattr(x, name), weights_only=True) for x in (first, second))
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        logs = [read_log(one.log_filename) for one in (first, second)]
        assert [{**row, "time": 0} for row in logs[0]] == [{**row, "time": 0} for row in logs[1]]

    return assert_same
