"""Metrics that count many batches at once give what they give batch by batch."""

import numpy as np
import pytest
import torch
from comparing import assert_equal
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error
from torch import nn
from torch.nn import functional as F

from clarion import Accuracy, Callback, DataError, Metric, Model, StreamingMetric
from clarion.metrics.blocks import MOST_BATCHES, is_small, lasting, portions
from clarion.metrics.decomposable import DecomposableMetric

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(700, 4, generator=GENERATOR)
Y = torch.randint(0, 3, (700,), generator=GENERATOR)


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def batches(size=7):
    return list(zip(X.split(size), Y.split(size), strict=True))


class Keep(Callback):
    """Reads batch logs at once, or keeps them to read them later."""

    def __init__(self, read):
        self.read, self.logs = read, []

    def on_train_batch_end(self, batch_number, logs):
        self.logs.append(dict(logs) if self.read else logs)


def test_values_over_a_pass_are_those_of_all_rows():
    model = Model(linear(), None, "cross_entropy", batch_metrics=["acc"], epoch_metrics=["f1"])
    for size in (1, 7, 32, 700):
        found = model.evaluate(X, Y, batch_size=size, verbose=False, return_dict_format=True)
        best = model.network(X).argmax(1)
        assert found["test_acc"] == pytest.approx(100 * accuracy_score(Y, best), abs=1e-9)
        expected = f1_score(Y, best, average="macro")
        assert found["test_fscore_macro"] == pytest.approx(expected, abs=1e-9)
        loss = F.cross_entropy(model.network(X).double(), Y).item()
        assert found["test_loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("read", [True, False])
def test_batch_logs_are_of_each_batch_whenever_they_are_read(read):
    keep = Keep(read)
    network = linear()
    model = Model(network, {"optim": "sgd", "lr": 0.0}, "cross_entropy", batch_metrics=["acc"])
    model.fit_generator(batches(), epochs=1, verbose=False, callbacks=[keep])
    for logs, (x, y) in zip(keep.logs, batches(), strict=True):
        assert logs["acc"] == pytest.approx(100 * accuracy_score(y, network(x).argmax(1)))
        assert logs["loss"] == pytest.approx(F.cross_entropy(network(x), y).item(), abs=1e-6)


def test_logs_that_nobody_keeps_compute_nothing(monkeypatch):
    class Pass(Callback):
        def on_train_batch_end(self, batch_number, logs):
            assert logs["size"] == 7

    monkeypatch.setattr(Accuracy, "alone", lambda *args: pytest.fail("a value nobody asked for"))
    model = Model(linear(), "sgd", "cross_entropy", batch_metrics=["acc"])
    model.fit_generator(batches(), epochs=1, verbose=False, callbacks=[Pass()])


def test_rows_of_batches_are_added_in_the_same_blocks_as_single_ones():
    values, targets = list(X[:150, 0]), list(Y[:150, None])
    predictions = list(X[:150, None])
    single, rows = (DecomposableMetric(F.cross_entropy, "loss") for _ in range(2))
    one, other = Accuracy(), Accuracy()
    for value, y_pred, y_true in zip(values, predictions, targets, strict=True):
        single.note(value, y_pred, y_true)
        one.defer(y_pred, y_true)
    for i in range(0, 150, 11):
        row = slice(i, i + 11)
        rows.note_all(values[row], predictions[row], targets[row])
        other.defer_all(predictions[row], targets[row])
    assert_equal(single.pass_state(), rows.pass_state())  # what is added, and what still waits
    assert_equal(one.pass_state(), other.pass_state())


def test_portions_fill_each_block():
    found = [list(range(10, 90))[portion] for portion in portions(60, 80)]
    assert [len(one) for one in found] == [4, MOST_BATCHES, 12]
    assert [number for one in found for number in one] == list(range(10, 90))
    assert list(portions(0, 0)) == []


def test_a_metric_read_in_the_middle_of_a_pass_has_counted_everything():
    seen = []

    class Read(Callback):
        def on_train_batch_end(self, batch_number, logs):
            if batch_number in (1, 5, 64, 65, 66, 80):
                counted = self.model.batch_metrics[0].sums[1].item()
                weight = self.model.loss_function.sums[-1].item()
                seen.append((batch_number, counted, weight))

    model = Model(linear(), "sgd", "cross_entropy", batch_metrics=["acc"])
    model.fit_generator(batches(), epochs=1, verbose=False, callbacks=[Read()])
    assert seen == [(n, 7.0 * n, 7.0 * n) for n in (1, 5, 64, 65, 66, 80)]


def refilled(kind):
    """Yield the same two buffers each time, filled anew, as fast loaders do."""
    x, y = torch.zeros(7, 4), torch.zeros(7, dtype=torch.int64)
    if kind == "numpy":
        x, y = x.numpy(), y.numpy()
    for inputs, target in batches():
        x[:] = inputs if kind == "torch" else inputs.numpy()
        y[:] = target if kind == "torch" else target.numpy()
        yield x, y


class Identity(nn.Module):
    def forward(self, x):
        return x


class Constant(nn.Module):
    """Returns a view of its own weight, which the optimizer changes in place."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3))

    def forward(self, x):
        return self.weight.expand(len(x), 3)


class Reused(nn.Module):
    """Returns the same buffer each time."""

    def __init__(self):
        super().__init__()
        self.linear = linear()
        self.register_buffer("out", torch.zeros(7, 3))

    def forward(self, x):
        return self.out.copy_(self.linear(x))


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("network", [linear(), Identity(), Reused()])
def test_buffers_that_are_filled_anew_are_counted_as_they_were(kind, network):
    model = Model(network, None, "cross_entropy", batch_metrics=["acc"])
    found = model.evaluate_generator(refilled(kind), steps=100, verbose=False)
    with torch.no_grad():
        outputs = torch.cat([network(x).clone() for x, _ in batches()])
    assert found[0] == pytest.approx(F.cross_entropy(outputs, Y).item(), abs=1e-6)
    assert found[1] == pytest.approx(100 * accuracy_score(Y, outputs.argmax(1)), abs=1e-6)


def test_a_prediction_that_is_a_weight_is_counted_before_the_step_changes_it():
    keep = Keep(read=True)
    model = Model(Constant(), {"optim": "sgd", "lr": 1.0}, "cross_entropy", batch_metrics=["acc"])
    history = model.fit_generator(batches(), epochs=1, verbose=False, callbacks=[keep])
    mean = np.mean([logs["acc"] for logs in keep.logs])
    assert history[0]["acc"] == pytest.approx(mean)
    assert len({logs["acc"] for logs in keep.logs}) > 1


def spoil(y_pred, y_true):
    return y_pred.zero_().sum()


def test_a_metric_that_changes_the_prediction_does_not_change_the_others():
    network = linear()
    model = Model(network, None, "cross_entropy", batch_metrics=["acc", spoil])
    _, (accuracy, _) = model.evaluate(X, Y, batch_size=7, verbose=False)
    assert accuracy == pytest.approx(100 * accuracy_score(Y, network(X).argmax(1)), abs=1e-9)


def test_a_prediction_changed_before_it_is_counted_is_an_error():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.state = linear(), None

        def forward(self, x):
            if self.state is not None:
                self.state.mul_(0.5)
            output = self.linear(x)
            self.state = output.detach()
            return output

    model = Model(Recurrent(), "sgd", "cross_entropy", batch_metrics=["acc"])
    with pytest.raises(DataError, match=r"changed in place .* y\.clone\(\)"):
        model.fit_generator(batches(), epochs=1, verbose=False)


def test_an_error_names_the_batch_that_was_wrong_and_not_that_of_its_discovery():
    y = Y.clone()
    y[7 * 9] = 3  # the first row of batch 10
    network = linear()
    loss = nn.CrossEntropyLoss(ignore_index=3)
    model = Model(network, None, loss, epoch_metrics=["f1"])
    with pytest.raises(DataError, match=r"metric \"fscore_macro\" failed on test batch 10"):
        model.evaluate(X, y, batch_size=7, verbose=False)


@pytest.mark.parametrize(
    ("wrong", "place"), [(15, "the batch 4 before the last one"), (19, "the last batch")]
)
def test_an_error_at_the_end_of_a_pass_says_which_batch_was_wrong(wrong, place):
    y = Y[: 7 * 20].clone()
    y[7 * wrong] = 3
    loss = nn.CrossEntropyLoss(ignore_index=3)
    model = Model(linear(), None, loss, epoch_metrics=["f1"])
    with pytest.raises(DataError, match=f'The metric "fscore_macro" failed on {place}: .*label 3'):
        model.evaluate(X[: len(y)], y, batch_size=7, verbose=False)


def test_outputs_of_several_lengths_are_counted_too():
    pairs = [(torch.randn(2, 3, n), torch.randint(0, 3, (2, n))) for n in (4, 4, 5, 6, 4, 9) * 30]
    pairs[7][1][0, 0] = -100
    model = Model(Identity(), None, "cross_entropy", batch_metrics=["acc", "perplexity"])
    loss, (accuracy, perplexity) = model.evaluate_generator(pairs, verbose=False)
    tokens = sum((y != -100).sum() for _, y in pairs)
    total = sum(F.cross_entropy(x, y, reduction="sum") for x, y in pairs)
    right = sum(((x.argmax(1) == y) & (y != -100)).sum() for x, y in pairs)
    assert loss == pytest.approx((total / tokens).item(), rel=1e-6)
    assert perplexity == pytest.approx((total / tokens).exp().item(), rel=1e-5)
    assert accuracy == pytest.approx((100 * right / tokens).item(), rel=1e-6)


class CountsCalls(StreamingMetric):
    calls = 0

    def tally(self, y_pred, y_true):
        type(self).calls += 1
        return torch.ones(1, dtype=torch.float64)

    def conclude(self, sums):
        return sums[0]


class AddsUp(CountsCalls):
    adds_up = True


class Below(AddsUp):
    """Inherits nothing of that."""


@pytest.mark.parametrize(("cls", "calls"), [(CountsCalls, 100), (AddsUp, 3), (Below, 100)])
def test_a_metric_of_the_user_s_own_counts_in_blocks_if_its_class_says_so(cls, calls):
    cls.calls = 0
    model = Model(linear(), None, "cross_entropy", batch_metrics=[cls()])
    model.evaluate(X, Y, batch_size=7, verbose=False)
    assert cls.calls == calls
    assert calls < 100 or issubclass(cls, Metric)


def test_many_examples_in_a_batch_are_counted_at_once():
    assert is_small(torch.zeros(2**15))
    assert not is_small(torch.zeros(2**15 + 1))
    assert not is_small([torch.zeros(1)])
    x = torch.zeros(MOST_BATCHES * 2**14, 2)
    model = Model(Identity(), None, "mse", batch_metrics=["mean_absolute_error"])
    loss, error = model.evaluate(x, x + 1, batch_size=2**15, verbose=False)
    assert (loss, error) == (1.0, mean_absolute_error([0.0], [1.0]))


def test_only_what_an_operation_made_for_its_gradient_is_not_copied():
    weight = torch.ones(3, requires_grad=True)
    made, view, plain = weight * 2, weight.expand(2, 3), torch.ones(3)
    assert lasting(made).data_ptr() == made.data_ptr()
    for other in (view, plain, weight):
        assert lasting(other).data_ptr() != other.data_ptr()
        assert torch.equal(lasting(other), other)
