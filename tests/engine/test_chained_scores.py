"""Evaluations and predictions of networks that are chains of plain layers."""

import numpy as np
import pytest
import torch
from chaining import BATCHES, VALUES, X, Y, mlp
from torch import nn
from torch.nn.functional import cross_entropy

from clarion import Accuracy, Callback, Model, StepError, StreamingMetric
from clarion.engine import chains, tight
from clarion.engine.chains import Chain
from clarion.errors import ClarionError
from clarion.metrics.decomposable import DecomposableMetric

# Of seven batches: the first is new, the second is compared, and the last one is smaller.
ONCE_COMPARED = [8] * 5


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
    assert chained == ONCE_COMPARED


@pytest.mark.parametrize(
    ("loss", "y", "metrics"),
    [
        ("cross_entropy", Y, ["acc", "f1"]),
        ("mse", VALUES, ["mean_absolute_error", "r2"]),
        ("l1", VALUES, []),
    ],
)
def test_an_evaluation_gives_what_the_ordinary_way_gives(loss, y, metrics, chained, monkeypatch):
    model = Model(mlp(), None, loss, batch_metrics=metrics[:1], epoch_metrics=metrics[1:])
    options = {"verbose": False, "return_pred": True, "return_ground_truth": True}
    found = model.evaluate(X, y, batch_size=8, **options)
    assert chained == ONCE_COMPARED
    monkeypatch.setattr(tight.TightScore, "of", lambda engine: None)
    assert str(found) == str(model.evaluate(X, y, batch_size=8, **options))


def test_validation_inside_a_training(chained, monkeypatch):
    def history():
        torch.manual_seed(0)
        model = Model(mlp(), "sgd", "cross_entropy", batch_metrics=["acc"])
        sets = {"one": (X, Y), "two": BATCHES}
        found = model.fit(X, Y, validation_data=sets, batch_size=8, epochs=2, verbose=False)
        return [{**logs, "time": 0} for logs in found]

    found = history()
    assert len(chained) == 2 * 2 * len(ONCE_COMPARED)
    monkeypatch.setattr(tight.TightScore, "of", lambda engine: None)
    assert found == history()


def test_predictions_in_a_file_and_one_by_one(chained, tmp_path):
    model = Model(mlp(), None, None)
    whole = model.predict(X, batch_size=8, verbose=False)
    written = model.predict(X, batch_size=8, verbose=False, out=tmp_path / "p.npy")
    streamed = list(model.predict(X, batch_size=8, verbose=False, stream=True))
    assert chained == 2 * ONCE_COMPARED
    assert (written == whole).all()
    assert [len(one) for one in streamed] == [8] * 6 + [4]
    assert (np.concatenate(streamed) == whole).all()


@pytest.mark.parametrize("spoilt", [1, 3])
def test_a_chain_that_does_not_agree_is_compared_once(spoilt, chained):
    x = X.clone()
    x[::spoilt] = torch.nan  # which is unlike itself
    Model(mlp(), None, None).predict(x, batch_size=8, verbose=False)
    assert len(chained) == 1


def test_of_much_work_nothing_is_compared(chained, monkeypatch):
    monkeypatch.setattr(chains, "_MOST_WORK", 8 * sum(p.numel() for p in mlp().parameters()) - 1)
    Model(mlp(), None, None).predict(X, batch_size=8, verbose=False)
    assert not chained


def test_a_callback_that_turns_gradients_on_has_the_network_called(chained):
    class TurnsOn(Callback):
        def on_test_batch_begin(self, batch_number, logs):
            torch.set_grad_enabled(batch_number >= 4)

    model = Model(mlp(), None, "cross_entropy", batch_metrics=["acc"])
    expected = evaluated(model)
    chained.clear()
    found = model.evaluate(X, Y, batch_size=8, verbose=False, callbacks=[TurnsOn()])
    assert chained == [8, 8]
    assert found == expected


def test_predictions_are_those_of_the_network_bit_for_bit(chained):
    network = mlp()
    found = Model(network, None, None).predict(X, batch_size=8, verbose=False)
    with torch.no_grad():
        expected = torch.cat([network(x) for x in X.split(8)])
    assert chained == ONCE_COMPARED
    assert torch.equal(torch.from_numpy(found), expected)


def test_a_network_with_frozen_layers_is_a_chain_as_well(chained):
    network = mlp().requires_grad_(False)
    Model(network, None, None).predict(X, batch_size=8, verbose=False)
    assert chained == ONCE_COMPARED


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
    assert chained == [4] * 12
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


class First(Accuracy):
    """Counts the first example of each batch."""

    adds_up = True

    def defer(self, y_pred, y_true):
        super().defer(y_pred[:1], y_true[:1])


class Own(StreamingMetric):
    """Keeps no sums of clarion's."""

    adds_up = True
    __name__ = "own"

    def __init__(self):
        super().__init__()
        self.seen = 0

    def update(self, y_pred, y_true):
        self.seen += 1

    def tally(self, y_pred, y_true):
        raise NotImplementedError

    def conclude(self, sums):
        raise NotImplementedError

    def compute_tensor(self):
        return torch.tensor(self.seen)

    def reset(self):
        super().reset()
        self.seen = 0


def test_metrics_that_see_each_batch_in_a_way_of_their_own():
    network = mlp()
    model = Model(network, None, "cross_entropy", epoch_metrics=[First(), Own()])
    _, (first, seen) = evaluated(model)
    right = network(X).argmax(1) == Y
    assert first == pytest.approx(100 * right[::8].double().mean().item())
    assert seen == 7


def test_an_output_that_is_no_loss_tells_how_long_ago_it_was():
    loss = DecomposableMetric(cross_entropy, "loss")
    outputs = [torch.tensor(1.0), torch.ones(2), torch.tensor(1.0), torch.tensor(1.0)]
    with pytest.raises(ClarionError, match="returned 2 values") as caught:
        loss.note_all(outputs, [X[:1]] * 4, [Y[:1]] * 4)
    assert caught.value.batches_ago == 2
