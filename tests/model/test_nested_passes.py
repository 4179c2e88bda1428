"""A pass inside a pass: evaluating, predicting or scoring a batch from a hook of a training."""

import pytest
import torch
import torchmetrics
from torch import nn

from clarion import Callback, IndexedArgumentMetric, Metric, Model

BATCHES = [(torch.tensor([[float(i)]]), torch.zeros(1, 1)) for i in range(1, 5)]
OTHER = [(torch.full((3, 1), 100.0), torch.zeros(3, 1))]
MEAN = (1 + 4 + 9 + 16) / 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.weight


def mean(y_pred, y_true):
    return y_pred.mean()


def model(**options):
    net = Net()
    return Model(
        net, torch.optim.SGD(net.parameters(), lr=0.0), "mse", batch_metrics=[mean], **options
    )


class Inside(Callback):
    """Does something after the second train batch."""

    def __init__(self, act):
        self.act = act

    def on_train_batch_end(self, batch_number, logs):
        if batch_number == 2:
            self.result = self.act(self.model)


def fit(act, model, **options):
    inside = Inside(act)
    (logs,) = model.fit_generator(BATCHES, epochs=1, callbacks=[inside], verbose=False, **options)
    return logs, inside.result


@pytest.mark.parametrize(
    "act",
    [
        lambda m: m.evaluate_generator(OTHER, verbose=False),
        lambda m: m.evaluate_on_batch(*OTHER[0]),
        lambda m: m.train_on_batch(*OTHER[0]),
    ],
    ids=["evaluate", "evaluate_on_batch", "train_on_batch"],
)
def test_scoring_inside_a_train_pass_leaves_its_numbers_alone(act):
    logs, (loss, value) = fit(act, model())

    assert (loss, value) == (10000.0, 100.0)
    assert logs["loss"] == MEAN
    assert logs["mean"] == 2.5


def test_predicting_inside_a_train_pass():
    logs, result = fit(lambda m: m.predict(OTHER[0][0], verbose=False), model())

    assert result.tolist() == [[100.0]] * 3
    assert logs["loss"] == MEAN


def test_the_network_goes_on_in_train_mode():
    modes = []

    class Watches(Inside):
        def on_train_batch_end(self, batch_number, logs):
            super().on_train_batch_end(batch_number, logs)
            modes.append((self.model.network.training, torch.is_grad_enabled()))

    model().fit_generator(
        BATCHES,
        epochs=1,
        callbacks=[Watches(lambda m: m.evaluate_generator(OTHER, verbose=False))],
        verbose=False,
    )
    assert modes == [(True, True)] * 4


class Total(Metric):
    """A metric of one's own, whose state is a plain value."""

    def __init__(self):
        super().__init__()
        self.reset()

    def update(self, y_pred, y_true):
        self.total += float(y_pred.sum())

    def compute(self):
        return self.total

    def reset(self):
        self.total = 0.0


class Hidden(Total):
    """A state that clarion knows nothing of."""

    def reset(self):
        super().reset()
        self.source = iter(())


class Rows(torchmetrics.Metric):
    """Lists as torchmetrics has them, which it empties in place."""

    def __init__(self):
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, y_pred, y_true):
        self.rows.append(y_pred.mean())

    def compute(self):
        return torch.stack(self.rows).sum()


EVALUATED = {
    "evaluate": lambda m: m.evaluate_generator(OTHER, verbose=False)[1][1],
    "evaluate_on_batch": lambda m: m.evaluate_on_batch(*OTHER[0])[1] and None,
    "train_on_batch": lambda m: m.train_on_batch(*OTHER[0])[1] and None,
}
OTHERS = {
    "a plain value": (Total, 300.0, 10.0),
    "torchmetrics": (torchmetrics.MeanSquaredError, 10000.0, MEAN),
    "lists of torchmetrics": (Rows, 100.0, 10.0),
    "a metric around another": (lambda: IndexedArgumentMetric(Total()), 300.0, 10.0),
}


@pytest.mark.parametrize("act", EVALUATED.values(), ids=EVALUATED)
@pytest.mark.parametrize(("make", "inside", "whole"), OTHERS.values(), ids=OTHERS)
def test_metrics_of_torchmetrics_and_ones_own_are_set_aside(make, inside, whole, act):
    logs, value = fit(act, model(epoch_metrics=[("state", make())]))

    assert value in (None, pytest.approx(inside))
    assert logs["state"] == pytest.approx(whole)
    assert logs["loss"] == MEAN


def test_validations_inside_an_epoch_leave_the_numbers_of_the_train_pass_alone():
    built = model(epoch_metrics=[("state", torchmetrics.MeanSquaredError())])
    (logs,) = built.fit_generator(BATCHES, OTHER, epochs=1, validate_every=1, verbose=False)

    assert logs["state"] == pytest.approx(MEAN)
    assert logs["val_state"] == pytest.approx(10000.0)


def test_states_that_cannot_be_set_aside_give_a_warning():
    built = model(epoch_metrics=[("state", Hidden())])

    with pytest.warns(UserWarning, match="evaluated inside a train pass.*cannot be set aside"):
        logs, (_, values) = fit(lambda m: m.evaluate_generator(OTHER, verbose=False), built)

    assert values[1] == 300.0
    assert logs["state"] == 3 + 4
    assert logs["loss"] == MEAN


@pytest.mark.parametrize("act", ["evaluate_on_batch", "train_on_batch"])
def test_states_that_count_a_batch_of_its_own_too_give_a_warning(act):
    built = model(epoch_metrics=[("state", Hidden())])

    with pytest.warns(UserWarning, match='"Hidden" gathered .* will count this batch too'):
        logs, _ = fit(lambda m: getattr(m, act)(*OTHER[0]), built)

    assert logs["state"] == 1 + 2 + 300 + 3 + 4
    assert logs["loss"] == MEAN


def test_an_error_in_the_inner_pass_leaves_nothing_behind():
    def broken():
        yield OTHER[0]
        raise ZeroDivisionError

    built = model()
    with pytest.raises(ZeroDivisionError):
        fit(lambda m: m.evaluate_generator(broken(), verbose=False), built)

    assert built.evaluate_generator(BATCHES, verbose=False) == (MEAN, 2.5)


def test_evaluating_between_epochs():
    class Between(Callback):
        def __init__(self):
            self.results = []

        def on_epoch_end(self, epoch_number, logs):
            self.results.append(self.model.evaluate_generator(OTHER, verbose=False))

    between = Between()
    history = model().fit_generator(BATCHES, BATCHES, epochs=2, callbacks=[between], verbose=False)

    assert between.results == [(10000.0, 100.0)] * 2
    assert [(logs["loss"], logs["val_loss"]) for logs in history] == [(MEAN, MEAN)] * 2
