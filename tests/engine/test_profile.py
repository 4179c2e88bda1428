"""Where the time of a training goes."""

import contextlib
import io
import time

import pytest
import torch
from torch import nn

from clarion import Callback, Model

PARTS = ["data", "forward", "backward", "optimizer", "metrics", "hooks", "validation", "other"]


class Slow(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.linear(x)


def profiled(*, read=0.0, forward=0.0, hook=0.0, valid=False, verbose=False, **options):
    torch.manual_seed(0)
    batch = (torch.randn(4, 3), torch.randint(0, 2, (4,)))

    class Loader:
        def __len__(self):
            return 5

        def __iter__(self):
            for _ in range(5):
                time.sleep(read)
                yield batch

    class Waiting(Callback):
        def on_train_batch_end(self, batch_number, logs):
            time.sleep(hook)

    model = Model(Slow(forward), "sgd", "cross_entropy", batch_metrics=["acc"])
    sets = [batch] * 5 if valid else None
    model.fit_generator(
        Loader(), sets, epochs=2, profile=True, verbose=verbose, callbacks=[Waiting()], **options
    )
    return model


@pytest.mark.parametrize(
    ("options", "part"),
    [({"read": 0.01}, "data"), ({"forward": 0.01}, "forward"), ({"hook": 0.01}, "hooks")],
)
def test_the_time_is_that_of_the_part_that_takes_it(options, part):
    profile = profiled(**options).profile
    assert list(profile.seconds) == PARTS
    assert profile.seconds[part] >= 0.1
    assert profile.shares[part] > 0.5
    assert sum(profile.shares.values()) == pytest.approx(1)
    assert profile.batches == 10


def test_the_validation_counts_as_a_whole():
    profile = profiled(valid=True, forward=0.01).profile
    assert profile.seconds["validation"] >= 0.1
    assert 0.1 <= profile.seconds["forward"] < 0.5 * profile.total + 0.1
    assert profile.batches == 10


def test_the_sum_is_the_time_of_the_training():
    start = time.perf_counter()
    profile = profiled(read=0.005).profile
    assert 0.05 <= profile.total <= time.perf_counter() - start


def test_it_is_shown_at_the_end():
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        model = profiled(verbose=True)
    assert str(model.profile) in shown.getvalue()
    assert "10 train batches" in shown.getvalue()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        profiled(verbose=False)
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
