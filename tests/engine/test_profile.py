"""Where the time of a training goes."""

import contextlib
import io

import pytest
import torch
from torch import nn

from clarion import Callback, Model
from clarion.engine import profile as module

PARTS = ["data", "forward", "backward", "optimizer", "metrics", "hooks", "validation", "other"]


class Clock:
    """A clock that goes on only where the test says so."""

    now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


class Slow(nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.clock = clock
        self.seconds = seconds

    def forward(self, x):
        self.clock.sleep(self.seconds)
        return self.linear(x)


def profiled(clock, *, read=0.0, forward=0.0, hook=0.0, valid=False, verbose=False, **options):
    torch.manual_seed(0)
    batch = (torch.randn(4, 3), torch.randint(0, 2, (4,)))

    class Loader:
        def __len__(self):
            return 5

        def __iter__(self):
            for _ in range(5):
                clock.sleep(read)
                yield batch

    class Waiting(Callback):
        def on_train_batch_end(self, batch_number, logs):
            clock.sleep(hook)

    model = Model(Slow(clock, forward), "sgd", "cross_entropy", batch_metrics=["acc"])
    sets = [batch] * 5 if valid else None
    model.fit_generator(
        Loader(), sets, epochs=2, profile=True, verbose=verbose, callbacks=[Waiting()], **options
    )
    return model


def test_the_time_is_that_of_the_part_that_takes_it(clock):
    profile = profiled(clock, read=3, forward=2, hook=1).profile
    assert list(profile.seconds) == PARTS
    expected = dict.fromkeys(PARTS, 0.0) | {"data": 30, "forward": 20, "hooks": 10}
    assert profile.seconds == pytest.approx(expected)
    assert profile.shares["data"] == pytest.approx(0.5)
    assert profile.total == pytest.approx(60) == clock.now - 100
    assert profile.batches == 10


def test_the_validation_counts_as_a_whole(clock):
    profile = profiled(clock, valid=True, forward=2).profile
    assert profile.seconds["validation"] == pytest.approx(20)
    assert profile.seconds["forward"] == pytest.approx(20)
    assert profile.batches == 10


def test_what_happens_in_a_step_of_the_optimizer_is_told_apart(clock):
    class Listening(Callback):
        def on_optimizer_step_begin(self, step):
            clock.sleep(5)

    class Stepping(torch.optim.SGD):
        def step(self, closure=None):
            clock.sleep(1)
            return super().step(closure)

    network = nn.Linear(3, 2)
    model = Model(network, Stepping(network.parameters(), 0.1), "cross_entropy")
    batch = (torch.randn(4, 3), torch.randint(0, 2, (4,)))
    model.fit_generator(
        [batch] * 4, epochs=1, accumulate=2, profile=True, verbose=False, callbacks=[Listening()]
    )
    assert model.profile.seconds["optimizer"] == pytest.approx(2)
    assert model.profile.seconds["hooks"] == pytest.approx(10)


def test_it_is_shown_at_the_end(clock):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        model = profiled(clock, read=1, verbose=True)
    assert str(model.profile) in shown.getvalue()
    assert "10 train batches" in shown.getvalue()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        profiled(clock, read=1, verbose=False)
    assert shown.getvalue() == ""


def test_measuring_changes_nothing_in_what_is_learnt():
    x = torch.randn(20, 3)
    y = torch.randint(0, 2, (20,))
    weights, histories = [], []
    for options in ({}, {"profile": True}):
        torch.manual_seed(0)
        model = Model(nn.Linear(3, 2), "adam", "cross_entropy", epoch_metrics=["f1"])
        history = model.fit(
            x, y, (x, y), batch_size=6, epochs=3, accumulate=2, verbose=False, **options
        )
        weights.append(model.network.weight)
        histories.append([{k: v for k, v in logs.items() if k != "time"} for logs in history])
    assert torch.equal(*weights)
    assert histories[0] == histories[1]


def test_a_short_loader_is_started_again():
    x, y = torch.randn(4, 3), torch.randint(0, 2, (4,))
    model = Model(nn.Linear(3, 2), "sgd", "cross_entropy")
    model.fit_generator([(x, y)], steps_per_epoch=3, epochs=2, profile=True, verbose=False)
    assert model.profile.batches == 6


def test_without_it_nothing_is_kept():
    x, y = torch.randn(4, 3), torch.randint(0, 2, (4,))
    model = Model(nn.Linear(3, 2), "sgd", "cross_entropy")
    model.fit_generator([(x, y)], epochs=1, verbose=False)
    assert model.profile is None
