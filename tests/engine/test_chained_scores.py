"""Evaluations and predictions of networks that are chains of plain layers."""

import pytest
import torch
from chaining import X, Y, mlp
from torch import nn
from torch.nn.functional import cross_entropy

from clarion import Callback, Model, StepError
from clarion.engine import chains, tight
from clarion.engine.chains import Chain


@pytest.fixture
def chained(monkeypatch):
    """How many examples each batch had that ran as a chain."""
    found = []
    run = Chain.run

    def spy(self, x):
        found.append(len(x))
        return run(self, x)

    monkeypatch.setattr(Chain, "run", spy)
    return found


def evaluated(model, data=(X, Y), size=8):
    return model.evaluate(*data, batch_size=size, verbose=False)


def test_an_evaluation_gives_what_a_loop_by_hand_gives(chained):
    network = mlp().eval()
    loss, accuracy = evaluated(Model(network, None, "cross_entropy", batch_metrics=["acc"]))
    scores = torch.cat([network(x) for x in X.split(8)])
    assert loss == pytest.approx(cross_entropy(scores, Y).item(), abs=1e-6)
    assert accuracy == pytest.approx(100 * (scores.argmax(1) == Y).double().mean().item())
    # The first batch is compared, then there are five, and the last one is compared again.
    assert chained == [8] * 6 + [4]


def test_an_evaluation_gives_what_the_ordinary_way_gives(chained, monkeypatch):
    model = Model(mlp(), None, "cross_entropy", batch_metrics=["acc"], epoch_metrics=["f1"])
    found = evaluated(model)
    assert chained
    monkeypatch.setattr(tight.TightScore, "of", lambda engine: None)
    assert str(found) == str(evaluated(model))


def test_predictions_are_those_of_the_network_bit_for_bit(chained):
    network = mlp()
    found = Model(network, None, None).predict(X, batch_size=8, verbose=False)
    with torch.no_grad():
        expected = torch.cat([network(x) for x in X.split(8)])
    assert chained == [8] * 6 + [4]
    assert torch.equal(torch.from_numpy(found), expected)


def test_a_network_with_frozen_layers_is_a_chain_as_well(chained):
    network = mlp().requires_grad_(False)
    Model(network, None, None).predict(X, batch_size=8, verbose=False)
    assert len(chained) == 7


def test_a_kernel_that_does_something_else_is_not_used(monkeypatch):
    network = mlp()
    monkeypatch.setattr(chains._Tanh, "run", lambda self, x: x.sin())
    found = Model(network, None, None).predict(X, batch_size=8, verbose=False)
    with torch.no_grad():
        expected = torch.cat([network(x) for x in X.split(8)])
    assert torch.equal(torch.from_numpy(found), expected)


def test_a_hook_that_comes_under_way_is_called():
    network, called = mlp(), []

    def batches():
        for number, (x, y) in enumerate(zip(X.split(4), Y.split(4), strict=True)):
            if number == 6:
                network[1].register_forward_hook(lambda *args: called.append(args))
            yield x, y

    model = Model(network, None, "cross_entropy")
    model.evaluate_generator(batches(), steps=13, verbose=False)
    assert len(called) == 7


def test_validation_on_a_loader_that_fills_its_memory_anew(chained):
    network = mlp()
    x, y = torch.empty(4, 6), torch.empty(4, dtype=torch.int64)

    class Refilled:
        def __len__(self):
            return 13

        def __iter__(self):
            for new_x, new_y in zip(X.split(4), Y.split(4), strict=True):
                x.copy_(new_x)
                y.copy_(new_y)
                yield x, y

    model = Model(network, None, "cross_entropy", batch_metrics=["acc"])
    found = model.evaluate_generator(Refilled(), verbose=False)
    assert chained == [4] * 13
    assert str(found) == str(evaluated(model, size=4))


def test_a_callback_reads_the_logs_of_its_own_batch(chained):
    class Reads(Callback):
        def __init__(self):
            self.seen = []

        def on_test_batch_end(self, batch_number, logs):
            self.seen.append(logs["test_acc"])

    network, reads = mlp(), Reads()
    model = Model(network, None, "cross_entropy", batch_metrics=["acc"])
    model.evaluate(X, Y, batch_size=4, verbose=False, callbacks=[reads])
    scores = network(X)
    right = (scores.argmax(1) == Y).float().split(4)
    assert chained
    assert reads.seen == [100 * one.mean().item() for one in right]


def test_the_batch_that_is_looked_at_is_the_last_one_of_its_row():
    model = Model(mlp(), None, "cross_entropy", batch_metrics=["acc"])
    metrics, scores = model._metrics, torch.eye(3)
    metrics.wait_all([scores, scores], [torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0])])
    metrics.look_at(scores, torch.tensor([0, 1, 2]))
    ((_, _, value),) = metrics.measured()
    assert value.value() == 100.0


@pytest.mark.parametrize("wrong", [5, 20, 51])
def test_an_error_names_the_batch(wrong):
    y = Y.clone()
    y[wrong] = 7
    with pytest.raises(StepError, match=f"loss failed on test batch {wrong // 4 + 1}: .*Target 7"):
        evaluated(Model(mlp(), None, "cross_entropy"), (X, y), size=4)


def test_a_loss_of_the_user_s_own_is_called_once_for_each_batch(chained):
    called = []

    def loss(y_pred, y_true):
        called.append(len(y_true))
        return cross_entropy(y_pred, y_true)

    evaluated(Model(mlp(), None, loss))
    assert called == [8] * 6 + [4]
    assert not chained


def test_a_network_that_is_no_chain_is_called_for_each_batch(chained):
    network = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    evaluated(Model(network, None, "cross_entropy"))
    assert not chained
