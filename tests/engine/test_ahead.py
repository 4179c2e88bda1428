"""Evaluations and predictions that run a network on several batches in a row."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from clarion import Callback, Model
from clarion.engine import ahead
from clarion.errors import DataError, StepError

SIZE, CLASSES, ROWS = 8, 3, 8 * 40 + 5  # the last batch is smaller


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 4, generator=generator)
    return x, torch.randint(0, CLASSES, (ROWS,), generator=generator)


@pytest.fixture
def rows(monkeypatch):
    """How many batches each row had."""
    found = []
    run = ahead.Ahead._run_row

    def spy(self, engine, stage, batches, number):
        count = run(self, engine, stage, batches, number)
        found.append(count)
        return count

    monkeypatch.setattr(ahead.Ahead, "_run_row", spy)
    return found


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, CLASSES)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.changed(self.linear(x))

    def changed(self, y):
        return y


class Squeezed(Plain):
    def changed(self, y):
        return y.unsqueeze(0).squeeze(0)


class InPlace(Plain):
    def forward(self, x):
        return self.linear(x.mul_(2))


class OfInputs(nn.Module):
    """Returns the memory of its inputs, changed in place."""

    def forward(self, x):
        return x.relu_()[:, :CLASSES]


class Ring(Plain):
    """Fills a few buffers in turn."""

    def __init__(self, number):
        super().__init__()
        self.buffers_in_turn = [torch.zeros(SIZE, CLASSES) for _ in range(number)]

    def changed(self, y):
        buffer = self.buffers_in_turn[self.calls % len(self.buffers_in_turn)]
        return buffer[: len(y)].copy_(y)


class InferenceRing(Ring):
    """Fills buffers whose changes torch does not count."""

    def __init__(self, number):
        super().__init__(number)
        with torch.inference_mode():
            self.buffers_in_turn = [torch.zeros(SIZE, CLASSES) for _ in range(number)]

    def forward(self, x):
        with torch.inference_mode():
            return super().forward(x)


class NumpyRing(Ring):
    """Fills ndarrays behind the back of torch."""

    def changed(self, y):
        buffer = self.buffers_in_turn[self.calls % len(self.buffers_in_turn)].numpy()
        buffer[: len(y)] = y.detach().numpy()
        return torch.from_numpy(buffer)[: len(y)]


class Overwriting(nn.Module):
    """Fills a buffer that nothing in Python holds once it is frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)
        self.buffer = torch.zeros(8, 3)

    def forward(self, x):
        return self.buffer[: len(x)].copy_(self.linear(x))


def frozen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.freeze(torch.jit.script(Overwriting().eval()))


class Slices(Plain):
    """Fills one buffer, a part of it at a time."""

    def __init__(self):
        super().__init__()
        self.buffer = torch.zeros(6 * SIZE, CLASSES)

    def changed(self, y):
        start = self.calls % 6 * SIZE
        return self.buffer[start : start + len(y)].copy_(y)


class Remembering(Plain):
    """Returns what it will change in the next call."""

    def __init__(self):
        super().__init__()
        self.last = None

    def changed(self, y):
        if self.last is not None:
            self.last.zero_()
        self.last = y
        return y


class Named(Plain):
    def changed(self, y):
        return {"scores": y}


NETWORKS = {
    "plain": Plain,
    "a view": Squeezed,
    "in place on its inputs": InPlace,
    "returns its inputs": OfInputs,
    "one buffer": lambda: Ring(1),
    "two buffers": lambda: Ring(2),
    "three buffers": lambda: Ring(3),
    "seven buffers": lambda: Ring(7),
    "twenty buffers": lambda: Ring(20),
    "buffers of inference mode": lambda: InferenceRing(7),
    "ndarrays": lambda: NumpyRing(7),
    "a buffer of a scripted network": frozen,
    "parts of a buffer": Slices,
    "changes what it returned": Remembering,
}


def by_hand(network, x, y):
    """Return scores and mean loss, from a plain loop."""
    scores, total = [], 0.0
    with torch.no_grad():
        for inputs, target in zip(x.split(SIZE), y.split(SIZE), strict=True):
            prediction = network(inputs.clone())
            total += cross_entropy(prediction, target).double() * len(target)
            scores.append(prediction.clone())
    return torch.cat(scores), total / len(x)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_evaluation_gives_what_a_loop_by_hand_gives(name, data, rows):
    x, y = data
    before = x.clone()
    scores, loss = by_hand(NETWORKS[name](), x, y)
    model = Model(NETWORKS[name](), None, "cross_entropy", epoch_metrics=["accuracy"])
    found, accuracy, predictions = model.evaluate(
        x, y, batch_size=SIZE, return_pred=True, verbose=False
    )
    assert np.array_equal(predictions, scores.numpy())
    assert found == pytest.approx(loss.item(), rel=1e-12)
    assert accuracy == pytest.approx((scores.argmax(1) == y).double().mean().item() * 100)
    assert torch.equal(x, before)
    assert max(rows) > 8


@pytest.mark.parametrize("name", NETWORKS)
def test_a_prediction_gives_what_a_loop_by_hand_gives(name, data, rows):
    x, y = data
    scores, _ = by_hand(NETWORKS[name](), x, y)
    predictions = Model(NETWORKS[name](), None).predict(x, batch_size=SIZE, verbose=False)
    assert np.array_equal(predictions, scores.numpy())
    assert max(rows) > 8


@pytest.mark.parametrize("verbose", [False, True])
def test_networks_run_in_rows_with_or_without_a_progress_display(data, rows, verbose, capsys):
    x, y = data
    Model(Plain(), None, "cross_entropy").evaluate(x, y, batch_size=SIZE, verbose=verbose)
    assert max(rows) > 8
    assert len(rows) < 9


def test_outputs_that_are_no_tensors_are_not_run_ahead(data, rows):
    x, _ = data
    network = Named()
    found = Model(network, None).predict(x, batch_size=SIZE, verbose=False)
    assert np.array_equal(found["scores"], by_hand(Plain(), *data)[0].numpy())
    assert not rows
    assert network.calls == 41


class Drawing(Plain):
    def changed(self, y):
        return y + torch.rand(())


def test_random_numbers_are_those_of_batch_by_batch_where_a_pass_begins_the_data_anew(data):
    class Listening(Callback):
        def on_predict_batch_end(self, batch_number, logs):
            pass

    found = []
    for callbacks in ([], [Listening()]):
        torch.manual_seed(1)
        found.append(
            Model(Drawing(), None).predict(
                data[0], batch_size=SIZE, steps=60, callbacks=callbacks, verbose=False
            )
        )
    assert np.array_equal(*found)


def test_each_batch_is_run_once(data):
    network = Plain()
    Model(network, None, "cross_entropy").evaluate(*data, batch_size=SIZE, verbose=False)
    assert network.calls == 41


def test_a_callback_hears_of_each_batch_before_the_next_one_is_run(data, rows):
    network, heard = Plain(), []

    class Listener(Callback):
        def on_test_batch_end(self, batch_number, logs):
            heard.append((batch_number, network.calls))

    Model(network, None, "cross_entropy").evaluate(
        *data, batch_size=SIZE, verbose=False, callbacks=[Listener()]
    )
    assert heard == [(i, i) for i in range(1, 42)]
    assert not rows


def test_a_stream_runs_the_network_when_a_batch_is_asked_for(data):
    network = Plain()
    stream = Model(network, None).predict(data[0], batch_size=SIZE, verbose=False, stream=True)
    for number, _ in zip(range(1, 6), stream, strict=False):
        assert network.calls == number


def test_a_slow_network_does_not_hold_up_the_display(data, rows, monkeypatch):
    monkeypatch.setattr(ahead, "_SECONDS", 0.0)
    x, y = data
    found = Model(Plain(), None).predict(x, batch_size=SIZE, verbose=False)
    assert np.array_equal(found, by_hand(Plain(), x, y)[0].numpy())
    assert set(rows) == {1}


def test_a_loss_may_change_the_prediction(data):
    x, y = data

    def halved(y_pred, y_true):
        return cross_entropy(y_pred.mul_(0.5), y_true)

    scores, _ = by_hand(Plain(), x, y)
    _, predictions = Model(Plain(), None, halved).evaluate(
        x, y, batch_size=SIZE, return_pred=True, verbose=False
    )
    assert np.array_equal(predictions, scores.numpy() * np.float32(0.5))


@pytest.mark.parametrize(
    "returned",
    [
        lambda memory: memory,
        lambda memory: memory.view(1),
        lambda memory: memory.view(1)[0],
        lambda memory: torch.from_numpy(memory.numpy()),
    ],
)
def test_a_loss_may_write_into_one_tensor_again_and_again(data, returned):
    x, y = data
    memory = torch.zeros(())

    def judge(y_pred, y_true):
        memory.copy_(cross_entropy(y_pred, y_true))
        return returned(memory)

    found = Model(Plain(), None, judge).evaluate(x, y, batch_size=SIZE, verbose=False)
    assert found == pytest.approx(cross_entropy(by_hand(Plain(), x, y)[0], y).item(), rel=1e-6)


def test_a_loss_may_turn_gradients_on(data):
    x, y = data
    network = Plain()

    def judge(y_pred, y_true):
        with torch.enable_grad():
            return cross_entropy(y_pred * network.linear.bias.exp(), y_true)

    network.linear.bias.data.zero_()
    model = Model(network, None, judge)
    found = model.evaluate(x, y, batch_size=SIZE, verbose=False)
    total = sum(
        judge(network(a).detach(), b) * len(b) for a, b in zip(x.split(8), y.split(8), strict=True)
    )
    assert found == pytest.approx(total.item() / len(x), rel=1e-6)


def test_memory_may_be_written_again_at_any_time(data):
    class Late(Plain):
        def changed(self, y):
            if self.calls == 30:
                self.kept = y
            if self.calls == 31:
                self.kept.zero_()
            return y

    found = Model(Late(), None).predict(data[0], batch_size=SIZE, verbose=False)
    assert np.array_equal(found, by_hand(Plain(), *data)[0].numpy())


def test_weights_of_examples_count_as_they_do_batch_by_batch(data, rows):
    x, y = data
    weights = torch.rand(ROWS)
    model = Model(Plain(), None, "cross_entropy")
    found = model.evaluate(x, y, batch_size=SIZE, sample_weight=weights, verbose=False)
    losses = cross_entropy(model.network(x), y, reduction="none").double()
    assert found == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-6)
    assert not rows


def test_an_error_of_the_network_names_its_batch(data):
    x, y = data

    class Failing(Plain):
        def changed(self, y):
            if self.calls == 23:
                raise ValueError("no")
            return y

    with pytest.raises(ValueError, match="no") as caught:
        Model(Failing(), None, "cross_entropy").evaluate(x, y, batch_size=SIZE, verbose=False)
    assert "test batch 23" in caught.value.__notes__[0]


def test_an_error_of_the_loss_names_its_batch(data):
    x, y = data
    y[8 * 22 + 1] = CLASSES
    with pytest.raises(StepError, match="The loss failed on test batch 23"):
        Model(Plain(), None, "cross_entropy").evaluate(x, y, batch_size=SIZE, verbose=False)


def test_an_error_of_a_metric_names_its_batch(data):
    x, y = (part[:320].repeat(2, *[1] * (part.ndim - 1)) for part in data)
    y[8 * 22 + 1] = CLASSES
    model = Model(Plain(), None, lambda y_pred, y_true: y_pred.mean(), epoch_metrics=["f1"])
    with pytest.raises(DataError, match=r"test batch 23: .* holds the label 3"):
        model.evaluate(x, y, batch_size=SIZE, verbose=False)
