"""What a chained step must not overlook: losses, targets and surroundings that change."""

import functools

import pytest
import torch
from chaining import BATCHES, VALUES, X, acting, both_ways, meddling, mlp, train
from comparing import assert_equal
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from clarion import Callback


def loader(make):
    return type("Loader", (), {"__iter__": lambda self: make(), "__len__": lambda self: 7})()


def narrow():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def test_targets_that_are_probabilities(monkeypatch):
    batches = list(zip(X.split(8), VALUES.softmax(1).split(8), strict=True))
    found, _ = both_ways(monkeypatch, data=batches)
    assert found["error"] is None


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_targets_of_two_shapes(monkeypatch):
    values = [VALUES[:8, :1]] * 3 + [VALUES[:8, 0]] * 4
    batches = [(X[:8], y) for y in values]
    for loss in ("mse", "l1"):
        both_ways(monkeypatch, network=narrow(), loss_function=loss, data=batches)


def test_targets_that_depend_on_the_weights(monkeypatch):
    def data(network):
        return loader(lambda: ((x, network(x.flip(0))) for x, _ in BATCHES))

    both_ways(monkeypatch, loss_function="mse", data=data)


def test_a_loss_that_says_it_is_one_of_torch(monkeypatch):
    """It looks at weights, which a loss of torch never does."""
    results = []
    for way in ("chained", "ordinary"):
        seen = []

        @functools.wraps(F.l1_loss)
        def loss(y_pred, y_true, seen=seen):
            return F.l1_loss(y_pred, y_true) + seen[0][0].weight.square().sum()

        def data(network, seen=seen):
            seen.append(network)
            return list(zip(X.split(8), VALUES.split(8), strict=True))

        results.append(train(monkeypatch, way=way, loss_function=loss, data=data)[0])
    assert_equal(*results)


LOSSES = {
    "smoothing": lambda loss: setattr(loss, "label_smoothing", 0.3),
    "weights": lambda loss: setattr(loss, "weight", torch.tensor([1.0, 2.0, 3.0])),
    "an ignored class": lambda loss: setattr(loss, "ignore_index", 1),
    "a forward": lambda loss: setattr(loss, "forward", lambda p, t: F.cross_entropy(p, t) * 2),
    "a hook": lambda loss: loss.register_forward_hook(lambda m, x, y: y * 2),
}


@pytest.mark.parametrize("by", ["callback", "loader"])
@pytest.mark.parametrize("change", LOSSES.values(), ids=LOSSES)
def test_a_loss_that_changes_under_way(change, by, monkeypatch):
    results = []
    for way in ("chained", "ordinary"):
        loss = nn.CrossEntropyLoss()
        change_it = functools.partial(lambda loss, network: change(loss), loss)
        options = {"data": meddling(change_it)}
        if by == "callback":
            options = {"callbacks": acting(change_it)()}
        results.append(train(monkeypatch, way=way, loss_function=loss, **options)[0])
    assert_equal(*results)


CHANGES = {
    "a hook on a weight": lambda n: n[0].weight.register_hook(lambda gradient: gradient / 2),
    "another class": lambda n: setattr(n[1], "__class__", nn.Sigmoid),
    "other strides": lambda n: setattr(n[2].weight, "data", n[2].weight.data.t().contiguous().t()),
    "gradients off": lambda n: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_loader_changes(change, monkeypatch):
    try:
        both_ways(monkeypatch, data=meddling(change))
    finally:
        torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", ["bias", "weight"])
def test_a_plain_tensor_in_place_of_a_parameter(name, monkeypatch):
    network = mlp()
    network[4] = nn.Linear(4, 3, bias=name == "bias")
    plain = getattr(network[4], name).detach().clone()
    delattr(network[4], name)
    setattr(network[4], name, plain)
    both_ways(monkeypatch, network=network)
    change = meddling(lambda n: setattr(n[4], name, plain * 3))
    both_ways(monkeypatch, network=network, data=change)


class Bends(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return found * 2 if func is F.linear else found


def rounded():
    def pack(x):
        return x.bfloat16().float() if x.is_floating_point() else x

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)


AROUND = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a mode": Bends,
    "saved tensors": rounded,
}


@pytest.mark.parametrize("make", AROUND.values(), ids=AROUND)
def test_what_a_callback_puts_around_batches(make, monkeypatch):
    class Surrounds(Callback):
        context = None

        def on_train_batch_begin(self, batch_number, logs):
            if batch_number > 3:
                self.context = make()
                self.context.__enter__()

        def on_train_batch_end(self, batch_number, logs):
            if self.context is not None:
                self.context.__exit__(None, None, None)
                self.context = None

    surrounds = []

    def callbacks():
        surrounds.append(Surrounds())
        return surrounds[-1:]

    try:
        both_ways(monkeypatch, callbacks=callbacks)
    finally:
        for one in surrounds:
            one.on_train_batch_end(0, {})


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_one_example_and_one_feature(seed, monkeypatch):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 16))
    x = torch.randn(60, 1, 6)
    batches = list(zip(x, torch.randint(0, 16, (60, 1)), strict=True))
    both_ways(monkeypatch, network=network, data=batches)


def test_weights_that_are_not_contiguous(monkeypatch):
    network = mlp()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        network[2].weight = nn.Parameter(torch.randn(5, 4, generator=generator).t())
        both_ways(monkeypatch, network=network, optimizer={"optim": "sgd", "momentum": 0.9})
