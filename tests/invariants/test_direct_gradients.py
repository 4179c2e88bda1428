"""Direct steps equal ordinary ones where gradients are changed, shared, or made elsewhere."""

import copy
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import clarion.model.base as base
from clarion import Callback, Model
from clarion.engine import direct, gradients, tight
from clarion.engine.gradients import is_all_there, owned
from clarion.engine.kernels import DirectStep
from clarion.engine.update import Update

X = torch.randn(52, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Sum(nn.Module):
    """Two parameters that get one gradient, and one whose gradient is the 1 of the loss."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(2, 6))
        self.added, self.seen = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(4))

    def forward(self, x):
        scores = nn.functional.linear(x, self.one + self.other)
        return scores + torch.stack([self.seen.sum(), torch.zeros(())])

    def loss(self, y_pred, y_true):
        return nn.functional.cross_entropy(y_pred, y_true) + self.added


def both(monkeypatch, network, optimizer, loss=None, between=lambda model: None, **options):
    """Train twice in two ways; return the number of direct steps, the ways being equal."""
    taken, models = [], []
    call = DirectStep.__call__
    monkeypatch.setattr(DirectStep, "__call__", lambda *args: (taken.append(1), call(*args))[1])
    for ordinary in (False, True):
        torch.manual_seed(1)
        mine = copy.deepcopy(network)
        optim = optimizer(mine) if callable(optimizer) else optimizer
        with monkeypatch.context() as patch:
            if ordinary:
                patch.setattr(base, "DirectUpdate", Update)
            model = Model(mine, optim, loss(mine) if loss else "cross_entropy")
            for _ in range(2):
                model.fit(X, Y, batch_size=8, epochs=1, verbose=False, **options)
                between(model)
        models.append(model)
    for mine, theirs in zip(*[model.network.parameters() for model in models], strict=True):
        assert torch.equal(mine, theirs)
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)
    return len(taken)


@pytest.mark.parametrize("clip", [{"clip_norm": 0.01}, {"clip_value": 0.001}, {}])
def test_gradients_that_are_one_tensor_are_changed_one_by_one(clip, monkeypatch):
    def go_back_by_hand(model):
        network = model.network
        network.loss(network(X), Y).backward()  # adds to what stands there, in place

    optimizer = {"optim": "sgd", "lr": 0.5, **clip}
    assert both(monkeypatch, Sum(), optimizer, lambda n: n.loss, go_back_by_hand) == 12
    assert all(one.item() == 1.0 for one in gradients._ones.values())


def test_owned_gradients_have_memory_of_their_own():
    parameters = [torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3)]
    shared, turned = torch.rand(2, 3), torch.rand(3, 2).t()
    first, second, third, fourth = owned([shared, shared, turned, None], parameters)
    assert first is shared
    assert torch.equal(second, shared)
    assert second.data_ptr() != shared.data_ptr()
    assert third.is_contiguous()
    assert torch.equal(third, turned)
    assert fourth is None


class Second(Callback):
    """Steps an optimizer of its own for the first layer."""

    def __init__(self, hook):
        setattr(self, hook, self.step)

    def on_train_begin(self, logs):
        self.optimizer = torch.optim.SGD(self.model.network[0].parameters(), lr=0.1)

    def step(self, number, logs):
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
def test_parameters_of_another_optimizer_get_their_gradients(hook, monkeypatch):
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))

    def optimizer(network):
        return torch.optim.SGD(network[2].parameters(), lr=0.1)

    before = network[0].weight.clone()
    assert both(monkeypatch, network, optimizer, callbacks=[Second(hook)]) == 0
    assert torch.equal(network[0].weight, before)  # the copies learnt


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 2)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        x = x.clone().requires_grad_(self.use_reentrant)
        return self.last(checkpoint(self.first, x, use_reentrant=self.use_reentrant))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_layers_learn(use_reentrant, monkeypatch):
    assert both(monkeypatch, Checkpointed(use_reentrant), "adam") == (0 if use_reentrant else 12)


def test_a_graph_is_asked_for_what_it_leads_to():
    network, other = nn.Linear(6, 2), torch.ones((), requires_grad=True)
    parameters = list(network.parameters())
    loss = network(X).sum()
    assert is_all_there(loss, parameters)
    assert not is_all_there(loss, parameters[:1])
    assert not is_all_there(loss * other, parameters)
    assert not is_all_there(network(X.clone().requires_grad_()).sum(), parameters)


class Meddle(Callback):
    """Changes what an optimizer works with, in the middle of an epoch."""

    def __init__(self, change):
        self.change = change

    def on_train_batch_end(self, batch_number, logs):
        if batch_number == 3:
            self.change(self.model.optimizer)


@pytest.mark.parametrize(
    ("optimizer", "change"),
    [
        ("adam", lambda optimizer: optimizer.state.clear()),
        ("sgd", lambda optimizer: optimizer.param_groups[0].update(weight_decay=0.1)),
        ("sgd", lambda optimizer: optimizer.param_groups[0].update(momentum=0.9)),
        (
            {"optim": "sgd", "momentum": 0.9},
            lambda optimizer: optimizer.param_groups[0].update(momentum=0.0),
        ),
    ],
)
def test_a_callback_may_change_the_optimizer(optimizer, change, monkeypatch):
    assert both(monkeypatch, nn.Linear(6, 2), optimizer, callbacks=[Meddle(change)]) >= 4


def test_a_loss_of_shape_1(monkeypatch):
    def loss(network):
        return lambda y_pred, y_true: nn.functional.cross_entropy(y_pred, y_true).reshape(1)

    assert both(monkeypatch, nn.Linear(6, 2), "adam", loss) == 12


class Fickle(nn.Module):
    """Freezes a layer of its own after some batches, or thaws it."""

    def __init__(self, learns_first):
        super().__init__()
        self.one, self.other = nn.Linear(6, 4), nn.Linear(4, 2)
        self.learns_first, self.calls = learns_first, 0
        self.one.requires_grad_(learns_first)

    def forward(self, x):
        self.calls += 1
        self.one.requires_grad_(self.learns_first == (self.calls % 7 < 4))
        return self.other(self.one(x))


@pytest.mark.parametrize("learns_first", [True, False])
@pytest.mark.parametrize("make", [torch.optim.SGD, partial(torch.optim.Adam, fused=True)])
def test_a_network_may_freeze_its_own_layers(make, learns_first, monkeypatch):
    def optimizer(network):
        return make(network.parameters(), lr=0.01)

    assert both(monkeypatch, Fickle(learns_first), optimizer) >= 3


@pytest.mark.parametrize("callbacks", [[], [Meddle(lambda optimizer: None)]])
def test_a_layer_outside_the_optimizer_gets_its_gradient_when_it_is_thawed(callbacks, monkeypatch):
    def optimizer(network):
        return torch.optim.SGD(network.other.parameters(), lr=0.01)

    taken = both(monkeypatch, Fickle(False), optimizer, callbacks=callbacks)
    assert taken == 4  # two in each epoch, until the first gradient for a layer outside


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["nobody", "somebody"])
@pytest.mark.parametrize("metrics", [[], [lambda y_pred, y_true: y_pred.mean()]])
def test_gradients_are_let_go_before_the_next_batch(metrics, callbacks, monkeypatch):
    alive, seen = [], []

    def record(loss, parameters):
        found = gradients.gradients_of(loss, parameters)
        alive.extend(weakref.ref(gradient) for gradient in found)
        return found

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(sum(ref() is not None for ref in alive))
            return super().forward(x)

    monkeypatch.setattr(direct, "gradients_of", record)
    monkeypatch.setattr(tight, "gradients_of", record)
    for callback in callbacks:
        callback.on_train_batch_end = lambda batch_number, logs: None
    model = Model(Watching(6, 2), "adam", "cross_entropy", batch_metrics=metrics)
    model.fit(X, Y, batch_size=8, epochs=1, verbose=False, callbacks=callbacks)
    assert len(alive) == 12
    assert seen == [0] * 7


class Local(nn.Module):
    """Goes back from a loss of its own in each forward pass."""

    def __init__(self, shared):
        super().__init__()
        self.first, self.head, self.last = nn.Linear(6, 5), nn.Linear(5, 1), nn.Linear(5, 2)
        self.shared = shared

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        if self.training:
            (self.head(hidden) - 1).square().mean().backward(retain_graph=self.shared)
        return self.last(hidden if self.shared else hidden.detach())


def learnt_by_hand(network, optimizer, batches):
    network.train()
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("metrics", [[], ["acc"], [("own", lambda y_pred, y_true: y_pred.sum())]])
def test_gradients_that_a_forward_leaves_behind_are_part_of_the_step(shared, metrics):
    torch.manual_seed(0)
    network = Local(shared)
    expected = copy.deepcopy(network)
    batches = list(zip(X.split(8), Y.split(8), strict=True))
    model = Model(network, {"optim": "sgd", "lr": 0.1}, "cross_entropy", batch_metrics=metrics)
    model.fit_generator(batches, epochs=2, verbose=False)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        state = learnt_by_hand(expected, optimizer, batches)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


class Sometimes(nn.Module):
    """Has a part that some batches lead to, and that the model's optimizer does not know."""

    def __init__(self):
        super().__init__()
        self.always, self.extra = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x):
        scores = self.always(x)
        return scores + self.extra(x) if x[0, 0] > 0 else scores


def test_parts_that_another_optimizer_trains_get_their_gradients_in_any_batch():
    torch.manual_seed(0)
    network = Sometimes()
    expected = copy.deepcopy(network)
    batches = list(zip(X.split(4), Y.split(4), strict=True))
    batches.sort(key=lambda batch: batch[0][0, 0].item())  # the first ones do not lead there
    other = torch.optim.SGD(network.extra.parameters(), lr=0.1)

    class Second(Callback):
        only_watches = True  # so that nobody is known to act on gradients

        def on_train_batch_end(self, batch_number, logs):
            other.step()
            other.zero_grad()

    model = Model(network, torch.optim.SGD(network.always.parameters(), lr=0.1), "cross_entropy")
    model.fit_generator(batches, epochs=1, callbacks=[Second()], verbose=False)
    learnt_by_hand(expected, torch.optim.SGD(expected.parameters(), lr=0.1), batches)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)
