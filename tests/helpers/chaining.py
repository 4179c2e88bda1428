"""Trainings whose steps are chained, compared with ordinary ones."""

import copy

import torch
from comparing import assert_equal
from torch import is_tensor, nn

from clarion import Callback, Model
from clarion.data.nested import map_structure
from clarion.engine import tight
from clarion.engine.chained import ChainedStep

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(52, 6, generator=GENERATOR)
Y = torch.randint(0, 3, (52,), generator=GENERATOR)
VALUES = torch.randn(52, 3, generator=GENERATOR)
BATCHES = list(zip(X.split(8), Y.split(8), strict=True))
EPOCHS = 2
# Of seven batches: the first makes the optimizer's state, the second is compared with autograd, and
# the last one is smaller.
ALL = EPOCHS * 4


def mlp():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def state_of(model):
    return {
        "weights": copy.deepcopy(model.network.state_dict()),
        "optimizer": copy.deepcopy(model.optimizer.state_dict()),
        "gradients": [
            None if p.grad is None else p.grad.clone() for p in model.network.parameters()
        ],
        "progress": (model.progress.step, model.progress.skipped),
    }


def train(monkeypatch, *, way="chained", network=None, optimizer="sgd", data=None, **options):
    """Train a copy of the network; return all that came of it, and how many steps were chained.

    Args:
        monkeypatch: What is patched.
        way: Which steps are taken: ``"chained"`` or ``"ordinary"``.
        network: The network.
        optimizer: The optimizer, or a function of the network that makes one.
        data: A pair of x and y, a list of batches, or a function of the network that makes one.
        options: Arguments of the model, and of ``fit``.
    """
    torch.manual_seed(1)
    network = copy.deepcopy(network or mlp())
    made = optimizer(network) if callable(optimizer) else optimizer
    fit = {
        k: options.pop(k) for k in ("callbacks", "max_steps", "batches_per_step") if k in options
    }
    fit |= {"epochs": EPOCHS, "verbose": False}
    model = Model(network, made, **{"loss_function": "cross_entropy", **options})
    batches = data(network) if callable(data) else BATCHES if data is None else data
    taken = []
    with monkeypatch.context() as patch:
        run = ChainedStep._run
        patch.setattr(ChainedStep, "_run", lambda *args: (taken.append(1), run(*args))[1])
        if way == "ordinary":
            patch.setattr(tight.TightStep, "of", lambda engine: None)
        error, history = None, []
        try:
            history = model.fit_generator(batches, **fit)
        except Exception as raised:
            error = type(raised), str(raised), getattr(raised, "__notes__", [])
    for row in history:
        row.pop("time")
    assert torch.is_grad_enabled()
    return {**state_of(model), "history": history, "error": error}, len(taken)


def both_ways(monkeypatch, **options):
    """Train chained and the ordinary way, see to it that all is alike; return what came of it."""
    make = options.pop("callbacks", list)
    found, taken = train(monkeypatch, callbacks=make(), **options)
    expected, none = train(monkeypatch, way="ordinary", callbacks=make(), **options)
    assert none == 0
    assert_equal(_plain(found), _plain(expected))
    return found, taken


def _plain(found):
    """Return it with another value for nan, which is like nothing."""
    numbers = map_structure(found, lambda leaf: leaf.nan_to_num(1.25) if is_tensor(leaf) else leaf)
    return {**numbers, "history": repr(found["history"]), "error": repr(found["error"])}


def acting(act, *, hook="on_train_batch_end", at=4):
    """Return what makes a callback that acts once in a pass, on a network and its model."""

    def fire(self, batch_number, *logs):
        if batch_number == at:
            act(self.model.network)

    return lambda: [type("Acts", (Callback,), {hook: fire})()]


def meddling(act, *, at=5):
    """Return what makes a loader that acts once in a pass, on a network, before it yields."""

    def data(network):
        def batches():
            for number, batch in enumerate(BATCHES, start=1):
                if number == at:
                    act(network)
                yield batch

        return type("Loader", (), {"__iter__": lambda self: batches(), "__len__": lambda self: 7})()

    return data
