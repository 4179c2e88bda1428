"""Trainings with compiled steps, and with ordinary ones to compare with."""

import random

import torch
from torch import nn

from clarion import Model

X = torch.randn(70, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 2))


def train(*, compile, optimizer="sgd", x=X, y=Y, epochs=3, fit=None, **options):  # noqa: A002
    torch.manual_seed(1)
    arguments = {"loss_function": "cross_entropy", "batch_metrics": ["acc"], **options}
    model = Model(
        arguments.pop("network", None) or network(), optimizer, compile=compile, **arguments
    )
    history = model.fit(x, y, batch_size=8, epochs=epochs, verbose=False, **(fit or {}))
    return model, history


def assert_close(model, other):
    pairs = zip(
        model.network.state_dict().items(), other.network.state_dict().values(), strict=True
    )
    for (name, mine), theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-6, msg=name)
    pairs = zip(model.optimizer.state.values(), other.optimizer.state.values(), strict=True)
    for mine, theirs in pairs:
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if value is not None:
                torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=2e-6)


def both(trained):
    """Return what a function of ``compile=`` returns for "step" and for False, seeded alike."""
    found = []
    for mode in ("step", False):
        torch.manual_seed(0)
        random.seed(0)
        found.append(trained(mode))
    return found
