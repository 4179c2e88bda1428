"""What a step costs in calls, operations and reads stays under a ceiling."""

import sys
from typing import NamedTuple

import pytest
import torch
from torch import nn

from clarion import Callback, Model

BATCH = 32


class Ceiling(NamedTuple):
    """The most that a step may cost, a little above what was found with torch 2.13, Python 3.11."""

    calls: float
    operations: float
    reads: float


# Blocks of batches make fractions. The guard against losses that are not finite reads the loss and
# whether the gradients are finite, on a CPU alone, where nobody waits for it.
CEILINGS = {
    "fit arrays": Ceiling(58, 23, 2),  # 54.8, 21.5, 2
    "fit batches": Ceiling(60, 24, 2),  # 57.5, 22.4, 2
    "fit batches with adam": Ceiling(60, 25, 2),  # 57.5, 23.4, 2
    # Numbers that are on the host already are read one by one: that is free, stacking them is not.
    # Each step asks whether the callback, which is a user's, has changed the optimizer.
    "fit batches, logs read": Ceiling(94, 34, 5),  # 90.5, 32.4, 5
    "fit batches, ordinary step": Ceiling(214, 70, 2),  # 206.5, 67.4, 2
    "fit batches, unguarded": Ceiling(59, 22, 0),  # 56.5, 20.4, 0
    "validate batches": Ceiling(33, 10, 0),  # 30.5, 8.4, 0
    "evaluate arrays": Ceiling(27, 9, 0),  # 25.7, 7.5, 0
    "evaluate arrays with f1": Ceiling(27, 9, 0.02),  # 26.0, 8.0, once a block
    "predict arrays": Ceiling(22, 6, 0),  # 20.9, 5.1, 0
    # What torch's own layers need is known; the way through another network is autograd's to find.
    "fit arrays, own network": Ceiling(64, 35, 2),  # 60.8, 33.5, 2
    "fit batches, logs read, own network": Ceiling(100, 46, 5),  # 96.5, 44.4, 5
    "evaluate arrays, own network": Ceiling(49, 9, 0),  # 46.6, 7.5, 0
    "predict arrays, own network": Ceiling(42, 6, 0),  # 39.7, 5.1, 0
}


class Reader(Callback):
    def on_train_batch_end(self, batch_number, logs):
        self.seen = logs["loss"], logs["acc"]


def data(steps):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps * BATCH, 8, generator=generator)
    return x, (x.sum(1) > 0).long()


def batches(steps):
    x, y = data(steps)
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


class Own(nn.Module):
    """A network in a class of the user's own, which only autograd knows the way through."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x)


def model(optimizer="sgd", metrics=("accuracy",), is_chain=True, **options):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    network = layers if is_chain else Own(layers)
    return Model(network, optimizer, "cross_entropy", batch_metrics=list(metrics), **options)


def fit_batches(steps, optimizer="sgd", callbacks=(), epochs=1, verbose=False, **options):
    one, given = model(optimizer, **options), batches(steps)
    listed = list(callbacks)
    return lambda: one.fit_generator(given, epochs=epochs, verbose=verbose, callbacks=listed)


def fit_arrays(steps, **options):
    one, (x, y) = model(**options), data(steps)
    return lambda: one.fit(x, y, batch_size=BATCH, epochs=1, verbose=False)


def validate(steps, **options):
    one, train, valid = model(**options), batches(2), batches(steps)
    return lambda: one.fit_generator(train, valid, epochs=1, verbose=False)


def evaluate(steps, **options):
    one, (x, y) = model(**options), data(steps)
    return lambda: one.evaluate(x, y, batch_size=BATCH, verbose=False)


def predict(steps, **options):
    one, (x, _) = model(**options), data(steps)
    return lambda: one.predict(x, batch_size=BATCH, verbose=False)


RUNS = {
    "fit arrays": fit_arrays,
    "fit batches": fit_batches,
    "fit batches with adam": lambda steps: fit_batches(steps, "adam"),
    "fit batches, logs read": lambda steps: fit_batches(steps, callbacks=[Reader()]),
    "fit batches, ordinary step": lambda steps: fit_batches(steps, "rmsprop"),
    "fit batches, unguarded": lambda steps: fit_batches(steps, on_nonfinite="ignore"),
    "validate batches": validate,
    "evaluate arrays": evaluate,
    "evaluate arrays with f1": lambda steps: evaluate(steps, metrics=(), epoch_metrics=["f1"]),
    "predict arrays": predict,
    "fit arrays, own network": lambda steps: fit_arrays(steps, is_chain=False),
    "fit batches, logs read, own network": lambda steps: fit_batches(
        steps, callbacks=[Reader()], is_chain=False
    ),
    "evaluate arrays, own network": lambda steps: evaluate(steps, is_chain=False),
    "predict arrays, own network": lambda steps: predict(steps, is_chain=False),
}


@pytest.mark.parametrize("name", CEILINGS)
def test_a_step_costs_no_more_than_its_ceiling(name, per_step):
    found, ceiling = per_step(RUNS[name]), CEILINGS[name]
    assert found.calls <= ceiling.calls
    assert found.operations <= ceiling.operations
    assert found.reads <= ceiling.reads


def test_a_progress_line_that_is_not_due_costs_one_call_a_step(per_step, tmp_path, monkeypatch):
    hidden = per_step(fit_batches)
    with open(tmp_path / "shown.txt", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        shown = per_step(lambda steps: fit_batches(steps, verbose=True))
    assert "acc" in (tmp_path / "shown.txt").read_text()
    assert shown.calls <= hidden.calls + 1.5
    assert shown.operations == hidden.operations
    assert shown.reads == hidden.reads


def test_an_epoch_costs_the_same_however_many_went_before(calls):
    runs = [calls(fit_batches(8, epochs=epochs)) for epochs in (10, 20, 40)]
    assert runs[2] - runs[1] <= 2 * (runs[1] - runs[0]) + 2
