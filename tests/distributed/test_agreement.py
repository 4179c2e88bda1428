"""What ranks decide together: when to stop, what to leave out, in which order to read."""

import os
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from clarion import Callback, EarlyStopping, Metric, MixUp, Model, set_seeds

pytestmark = pytest.mark.slow


def rank():
    return int(os.environ.get("RANK", "0"))


def data(rows=37):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 5, generator=generator)
    return x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long()


def network(*extra):
    set_seeds(3)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), *extra, nn.Linear(16, 3))


def weights(model):
    return {name: tensor.clone().numpy() for name, tensor in model.network.state_dict().items()}


def assert_same(one, *others, tolerance=5e-6):
    for other in others:
        assert list(one) == list(other)
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=tolerance)


class Steps(Callback):
    """Notes how many optimizer steps were made, and does something after one of them."""

    def __init__(self, at=None, act=None):
        super().__init__()
        self.at, self.act, self.done = at, act, 0

    def on_optimizer_step_end(self, step):
        self.done = step
        if step == self.at:
            self.act(self.model)


def stop_on_rank_1(model):
    if rank() == 1:
        model.stop_training = model.stop_immediately = True


def end_at(options, act=None, at=3, epochs=3):
    x, y = data()
    model = Model(network(), "sgd", "cross_entropy")
    steps = Steps(at, act or (lambda model: None))
    callbacks = [steps, *options.pop("callbacks", ())]
    options = {"batch_size": 8, "epochs": epochs, "verbose": False} | options
    history = model.fit(x, y, validation_data=(x, y), callbacks=callbacks, **options)
    return steps.done, len(history), len(model.validations)


def end_when_rank_1_says():
    return end_at({}, stop_on_rank_1)


def wait(model):
    time.sleep(0.02 * (rank() + 1))


def end_by_steps():
    return end_at({"max_steps": 7})


def end_by_time():
    return end_at({"max_time": 0.01}, wait, at=2, epochs=1000)


def validate_by_time():
    return end_at({"validate_every": "0.01s"}, wait, at=2)


def end_by_patience():
    x, y = data()
    model = Model(network(), {"optim": "sgd", "lr": 0.3}, "cross_entropy")
    stopping = EarlyStopping(monitor="val_loss", patience=2)
    history = model.fit(
        x[:20],
        y[:20],
        validation_data=(x[20:], y[20:]),
        batch_size=8,
        epochs=100,
        callbacks=[stopping],
        verbose=False,
    )
    return len(history)


def test_all_ranks_end_at_the_same_step(ranks):
    assert ranks(end_when_rank_1_says) == [(3, 1, 1)] * 2
    assert ranks(end_by_steps) == [end_by_steps()] * 2 == [(7, 2, 2)] * 2
    first, second = ranks(end_by_time)
    assert first == second
    assert first[0] < 1000
    assert ranks(end_by_patience) == [end_by_patience()] * 2


def test_ranks_validate_at_the_same_steps(ranks):
    first, second = ranks(validate_by_time)

    assert first == second
    assert first[2] > 3  # once an epoch, and at least once between


def train_on_a_bad_row(policy, fails=False):
    x, y = data()
    x[6] = torch.nan  # of the second rank
    model = Model(network(), {"optim": "adamw", "lr": 0.01}, "cross_entropy", on_nonfinite=policy)
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            model.fit(
                x,
                y,
                batch_size=8,
                epochs=1,
                verbose=False,
                dataloader_kwargs={"shuffle": False},
            )
        except ArithmeticError as error:
            said = str(error)
    return weights(model), model.progress.skipped, model.progress.step, said


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_row_that_is_not_finite_counts_on_every_rank(ranks, policy):
    one = train_on_a_bad_row(policy)
    several = ranks(train_on_a_bad_row, policy)

    for other in several:
        assert_same(one[0], other[0])
        assert one[1:3] == other[1:3] == ((0, 0) if policy == "stop" else (1, 5))
    if policy == "stop":
        assert "First bad: the input" in one[3]
        for other in several:
            assert "First bad: the input" in other[3]
            assert other[3].startswith("On rank 1: ")


def infinite_on_rank_1(y_pred, y_true):
    """A loss whose gradient is finite everywhere."""
    return nn.functional.cross_entropy(y_pred, y_true) + (torch.inf if rank() else 0.0)


def train_with_an_infinite_loss():
    x, y = data()
    model = Model(network(), "sgd", infinite_on_rank_1, on_nonfinite="skip")
    before = weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(x, y, batch_size=8, accumulate=2, epochs=1, verbose=False)
    assert_same(before, weights(model), tolerance=0)
    return model.progress.skipped


def test_a_loss_that_is_infinite_on_one_rank_counts_on_every_rank(ranks):
    assert ranks(train_with_an_infinite_loss) == [3, 3]


class Noise(nn.Module):
    """Keeps what dropout draws."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.drawn.append(float(torch.rand(())))
        return nn.functional.dropout(x, 0.5, self.training)


def train_with_dropout():
    x, y = data(32)
    noise = Noise()
    model = Model(
        network(noise, nn.BatchNorm1d(16)),
        {"optim": "sgd", "lr": 0.1},
        "cross_entropy",
        batch_transform=MixUp(),
    )
    model.fit(x, y, validation_data=(x, y), batch_size=8, epochs=2, verbose=False)
    return noise.drawn, weights(model), float(torch.rand(()))


def test_dropout_differs_between_ranks_and_nothing_else_does(ranks):
    first, second = ranks(train_with_dropout)
    again, _ = ranks(train_with_dropout)

    assert len(set(first[0]) | set(second[0])) == 16
    assert_same(first[1], second[1], tolerance=0)
    assert first[2] == second[2]
    assert first[0] == again[0]
    assert_same(first[1], again[1], tolerance=0)


def train_without_a_common_seed(generator_of):
    """Every rank has its own weights, order and split; rank 0's are to count."""
    torch.manual_seed(5 + rank())
    x, y = data()
    generator = torch.Generator().manual_seed(rank()) if generator_of else None
    layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
    model = Model(layers, {"optim": "sgd", "lr": 0.1}, "cross_entropy")
    before = model.evaluate(x, y, verbose=False)
    rows = TensorDataset(x, y)
    loader = DataLoader(rows, 8, shuffle=True, generator=generator)
    if generator_of == "inner sampler":
        sampler = RandomSampler(rows, generator=generator)
        loader = DataLoader(rows, batch_sampler=BatchSampler(sampler, 8, False))
    model.fit(loader, epochs=2, verbose=False)
    model.fit(x, y, batch_size=8, validation_split=0.3, epochs=2, verbose=False)
    return {**weights(model), "before": before, "split": model.split_indices[1].numpy()}


@pytest.mark.parametrize("generator_of", [None, "loader", "inner sampler"])
def test_what_is_drawn_on_rank_0_counts(ranks, generator_of):
    one = train_without_a_common_seed(generator_of)
    several = ranks(train_without_a_common_seed, generator_of)

    assert_same(one, *several)


class Unfreeze(Callback):
    def on_epoch_begin(self, epoch_number, logs):
        self.model.network[0].requires_grad_(epoch_number == 2)


def train_with_changes(kind):
    x, y = data()
    set_seeds(3)
    first = nn.LazyLinear(16) if kind == "lazy" else nn.Linear(5, 16)
    layers = nn.Sequential(first, nn.Tanh(), nn.Linear(16, 3))
    if kind == "unused":
        layers.register_module("unused", nn.Linear(2, 2))
        layers.forward = lambda x: layers[2](layers[1](layers[0](x)))
    model = Model(layers, {"optim": "adamw", "lr": 0.01}, "cross_entropy")
    callbacks = [Unfreeze()] if kind == "unfrozen" else []
    model.fit(x, y, batch_size=8, epochs=3, callbacks=callbacks, verbose=False)
    assert all(key.split(".")[0] != "module" for key in layers.state_dict())
    return weights(model)


@pytest.mark.parametrize("kind", ["unfrozen", "lazy", "unused"])
def test_networks_that_change_or_are_not_used_whole(ranks, kind):
    assert_same(train_with_changes(kind), *ranks(train_with_changes, kind))


class Foreign(Metric):
    def update(self, y_pred, y_true):
        pass

    def compute(self):
        return 0.0

    def reset(self):
        pass


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x, mask):
        return self.layer(x) * mask.sum()


def make_a_mistake(kind):
    x, y = data(24)
    layers, metrics, loader = network(), [], DataLoader(TensorDataset(x, y), 8)
    if kind == "sampler":
        sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=rank())
        loader = DataLoader(loader.dataset, 4, sampler=sampler)
    elif kind == "metric":
        metrics = [Foreign()]
    elif kind == "sizes":
        loader = [(x[: 8 - rank()], y[: 8 - rank()])]
    elif kind == "rows":
        layers, loader = Transposed(), [((x[:8], torch.ones(5)), y[:8])]
    elif kind == "networks":
        layers = network(nn.Linear(16, 16)) if rank() else network()
    elif kind == "order":
        loader = [(x[8 * rank() :][:8], y[8 * rank() :][:8])]
    elif kind == "devices":
        Model(layers, "sgd", "cross_entropy", device=["cpu", "cpu"])
    model = Model(layers, "sgd", "cross_entropy", epoch_metrics=metrics)
    model.fit(loader, epochs=1, verbose=False)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sampler", "clarion gives each rank its rows of every batch itself"),
        ("metric", "cannot put together over 2 ranks. Derive from clarion.StreamingMetric"),
        ("sizes", "has 8 examples on rank 0 and 7 on rank 1"),
        ("rows", r"its args[1] has shape (5,), and the batch has 8 examples"),
        ("networks", "The ranks built different networks"),
        ("order", "differs between rank 0 and rank 1"),  # a warning, and here an error
        ("devices", "each has a device of its own"),
    ],
)
def test_mistakes_are_told_on_every_rank(ranks, kind, message):
    for number, error in enumerate(ranks.errors(make_a_mistake, kind)):
        assert message in error
        if kind not in ("metric", "devices"):
            assert (
                f"This happened on rank {number} of 2, in epoch 1, after optimizer step 0" in error
            )
