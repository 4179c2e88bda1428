"""A training killed between any two batches and resumed equals one that never stopped."""

import itertools
import os
import random

import numpy as np
import pytest
import torch
import torchmetrics
from comparing import assert_equal
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from clarion import Callback, EarlyStopping, Experiment, LengthBucketBatchSampler, Metric
from clarion.data.arrays import ArrayBatches
from clarion.experiment import training
from clarion.experiment.history import read_log

AT_THE_END = 0
EPOCHS, N, SIZE, BATCHES = 2, 26, 4, 7
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) + torch.randn(N, generator=torch.Generator().manual_seed(3)) > 0).long()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(training, "save_plots", lambda *args, **kwargs: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(BaseException):
    """What ends a process in these tests."""


class Kill(Callback):
    """Ends the process at the beginning of an optimizer step, or at the end of the first epoch."""

    def __init__(self, step):
        self.step = step

    def on_optimizer_step_begin(self, step):
        if step == self.step:
            raise Killed

    def on_epoch_end(self, epoch_number, logs):
        if self.step == AT_THE_END:
            raise Killed


class Drawing(Callback):
    """Draws where hooks are called again after a resume."""

    def on_train_begin(self, logs):
        torch.rand(1)

    def on_epoch_begin(self, epoch_number, logs):
        random.random()
        np.random.rand()
        torch.rand(1)


class Augmented(Dataset):
    """Examples that are changed at random, by all three global generators."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        noise = random.random() + np.random.normal() + torch.randn(4)
        return X[index] + 0.1 * noise.float(), Y[index]


class Pairs(Dataset):
    """A user's dataset that draws nothing, and loads a batch at once."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], Y[index]

    def __getitems__(self, indices):
        return [(X[i], Y[i]) for i in indices]


class Stream(IterableDataset):
    """Examples in a random order, those of each worker."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        number, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for i in torch.randperm(N).tolist()[number::workers]:
            yield X[i], Y[i]


class Batches:
    """A plain iterable that shuffles in each traversal, and draws for each batch."""

    def __iter__(self):
        for indices in torch.randperm(N).split(SIZE):
            yield X[indices] + 0.1 * torch.randn(len(indices), 4), Y[indices]


class ByHand:
    """The same with a ``__next__`` of its own: ``__iter__`` sets it back."""

    def __iter__(self):
        self.left = list(torch.randperm(N).split(SIZE))
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        indices = self.left.pop()
        return X[indices] + 0.1 * torch.randn(len(indices), 4), Y[indices]


class Counting:
    """A loader that knows where it is, and that drawing and dropping would not bring there."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        while self.position < BATCHES:
            i = self.position * 3
            self.position += 1
            yield X[i : i + 4], Y[i : i + 4]
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def endless():
    for epoch in itertools.count():
        order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))
        for indices in order.split(SIZE):
            yield X[indices] + 0.1 * torch.randn(len(indices), 4), Y[indices]


class Own(Metric):
    """A user's metric that sums in attributes."""

    def __init__(self):
        super().__init__()
        self.reset()

    def update(self, y_pred, y_true):
        self.total += float(y_pred.detach().double().abs().sum())
        self.pieces.append(y_true.double().mean())

    def compute(self):
        return self.total + float(sum(self.pieces))

    def reset(self):
        self.total, self.pieces = 0.0, []


def generator():
    return torch.Generator().manual_seed(7)


def loader(dataset=None, **options):
    return DataLoader(dataset or Augmented(), **{"batch_size": SIZE, "shuffle": True, **options})


def without_batches():
    sampler = [list(range(i, min(i + SIZE, N))) for i in range(0, N, SIZE)]
    return DataLoader(Pairs2(), batch_size=None, sampler=sampler)


class Pairs2(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, indices):
        return X[indices] + 0.1 * torch.randn(len(indices), 4), Y[indices]


def bucketed(**options):
    lengths = [1 + i % 5 for i in range(N)]
    return LengthBucketBatchSampler(lengths, SIZE, **options)


def list_of_batches():
    return [(X[i : i + SIZE], Y[i : i + SIZE]) for i in range(0, N, SIZE)]


ACCUMULATED = {"batches_per_step": 3}
LOADERS = {
    "arrays": (lambda: ArrayBatches((X, Y), SIZE, shuffle=True), {}),
    "arrays in order": (lambda: ArrayBatches((X, Y), SIZE), ACCUMULATED),
    "arrays, own generator": (
        lambda: ArrayBatches((X, Y), SIZE, shuffle=True, generator=generator()),
        {},
    ),
    "loader": (loader, {}),
    "loader, accumulated": (loader, ACCUMULATED),
    "loader, own generator": (lambda: loader(generator=generator()), {}),
    "loader of what draws nothing": (lambda: loader(Pairs()), {}),
    "loader with a sampler": (
        lambda: loader(shuffle=False, sampler=RandomSampler(Augmented(), replacement=True)),
        {},
    ),
    "loader without batches": (without_batches, {}),
    "buckets": (lambda: DataLoader(Augmented(), batch_sampler=bucketed()), {}),
    "buckets cut into epochs": (
        lambda: DataLoader(
            Augmented(), batch_sampler=bucketed(seed=3, batches_per_epoch=BATCHES - 2)
        ),
        {},
    ),
    "iterable dataset": (lambda: loader(Stream(), shuffle=None), {}),
    "iterable": (Batches, {}),
    "iterable, accumulated": (Batches, ACCUMULATED),
    "by hand": (ByHand, {}),
    "by hand, short epochs": (ByHand, {"steps_per_epoch": BATCHES - 3}),
    "list": (list_of_batches, {}),
    "generator": (endless, {"steps_per_epoch": BATCHES}),
    "stateful": (Counting, {}),
    "short epochs": (loader, {"steps_per_epoch": BATCHES - 3}),
    "long epochs": (loader, {"steps_per_epoch": BATCHES + 3, "batches_per_step": 2}),
    "long epochs of arrays": (
        lambda: ArrayBatches((X, Y), SIZE, shuffle=True),
        {"steps_per_epoch": BATCHES + 3},
    ),
}
WITH_WORKERS = {
    "loader": (lambda: loader(num_workers=2), {}),
    "persistent workers": (
        lambda: loader(num_workers=2, persistent_workers=True, generator=generator()),
        {"steps_per_epoch": BATCHES + 2},
    ),
    "iterable dataset": (lambda: loader(Stream(), shuffle=None, num_workers=2, drop_last=True), {}),
}


def all_metrics():
    return [
        "auroc",
        "f1",
        ("own", Own()),
        ("tm", torchmetrics.Accuracy(task="multiclass", num_classes=2)),
        ("tms", torchmetrics.AUROC(task="multiclass", num_classes=2)),
    ]


def make(directory):
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
    )
    return Experiment(
        directory,
        network,
        optimizer={
            "optim": "adamw",
            "lr": 0.01,
            "schedule": "cosine",
            "total_steps": 20,
            "warmup": 0.2,
            "average": "ema",
        },
        loss_function="cross_entropy",
        batch_metrics=["acc"],
        epoch_metrics=all_metrics(),
    )


def train(experiment, data, *callbacks, epochs=EPOCHS, **options):
    options = {
        "verbose": False,
        "disable_tensorboard": True,
        "checkpoint_every": 1,
        **options,
    }
    valid = [(X[:9], Y[:9]), (X[9:], Y[9:])]
    callbacks = [Drawing(), EarlyStopping(monitor="val_loss", patience=9), *callbacks]
    return experiment.train(data, valid, callbacks=callbacks, epochs=epochs, **options)


def result(experiment, history):
    model = experiment.model
    model.progress.stopped = False
    rows = [
        {key: value for key, value in row.items() if key != "time"}
        for row in read_log(experiment.log_filename)
    ]
    logs = [{key: value for key, value in row.items() if key != "time"} for row in history]
    state = model.train_state().state_dict()
    kept = ("network", "optimizer", "average", "progress")
    random_states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    last = model.progress.epoch
    return {
        **{part: state[part] for part in kept},
        "log": rows,
        "history": logs[-1:],
        "validations": [one for one in model.validations if one["epoch"] == last],
        "random": random_states,
    }


def uninterrupted(tmp_path, make_data, options):
    experiment = make(tmp_path / "whole")
    return result(experiment, train(experiment, make_data(), checkpoint_every=None, **options))


def check(tmp_path, make_data, options, steps=None):
    whole = uninterrupted(tmp_path, make_data, options)
    last = whole["progress"]["step"]
    for step in steps or range(2, last + 1):
        directory = tmp_path / str(step)
        with pytest.raises(Killed):
            train(make(directory), make_data(), Kill(step), **options)
        torch.manual_seed(999)  # another process has other random states
        random.seed(999)
        np.random.seed(999)
        experiment = make(directory)
        history = train(experiment, make_data(), **options)
        assert experiment.model.progress.step == last
        assert_equal(whole, result(experiment, history), f"killed in step {step}: ")


@pytest.mark.parametrize("name", ["arrays", "loader", "loader, accumulated"])
def test_killed_in_every_step(name, tmp_path):
    check(tmp_path, *LOADERS[name])


@pytest.mark.parametrize("name", LOADERS)
def test_killed_in_some_steps(name, tmp_path):
    make_data, options = LOADERS[name]
    per_epoch = -(-options.get("steps_per_epoch", BATCHES) // options.get("batches_per_step", 1))
    if name == "buckets cut into epochs":
        per_epoch = BATCHES - 2
    check(tmp_path, make_data, options, {3, AT_THE_END, per_epoch + 1, 2 * per_epoch})


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_killed_with_workers(name, tmp_path):
    make_data, options = WITH_WORKERS[name]
    check(tmp_path, make_data, options, (AT_THE_END, 11))


@pytest.mark.parametrize("own", [False, True], ids=["global generator", "own generator"])
def test_workers_that_stay_change_nothing_even_after_a_resume(own, tmp_path):
    """Three epochs without workers, with two, and with two that are killed inside of epoch 2."""

    def options():
        # Batches of one size: nobody would ask the sampler for more rows than there are.
        return {"generator": generator(), "batch_size": 2} if own else {}

    def with_workers():
        return loader(num_workers=2, persistent_workers=True, **options())

    whole = uninterrupted(tmp_path, lambda: loader(**options()), {"epochs": 3})
    for step in (None, len(loader(**options())) + 4):
        directory = tmp_path / str(step)
        if step is not None:
            with pytest.raises(Killed):
                train(make(directory), with_workers(), Kill(step), epochs=3)
            torch.manual_seed(999)
        experiment = make(directory)
        history = train(experiment, with_workers(), epochs=3)
        assert_equal(whole, result(experiment, history), f"killed in step {step}: ")


@pytest.mark.parametrize("steps", [4, 7, 9])
@pytest.mark.parametrize("name", ["arrays", "loader", "iterable"])
def test_a_training_that_ended_inside_an_epoch_goes_on_there(name, steps, tmp_path):
    make_data, options = LOADERS[name]
    whole = uninterrupted(tmp_path, make_data, options)
    directory = tmp_path / "run"
    first = train(make(directory), make_data(), max_steps=steps, checkpoint_every=None, **options)
    assert len(first) == -(-steps // BATCHES)
    again = make(directory)
    assert train(again, make_data(), max_steps=steps, **options) == []
    assert again.model.progress.step == steps
    assert len(read_log(again.log_filename)) == len(first)
    experiment = make(directory)
    history = train(experiment, make_data(), **options)
    # Who does not tell its length may have another batch after any.
    is_inside = steps < BATCHES or (name == "iterable" and steps == BATCHES)
    assert [logs["epoch"] for logs in history] == ([1, 2] if is_inside else [2])
    assert_equal(whole, result(experiment, history))


def test_killed_between_the_validations_of_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "all_metrics", lambda: ["auroc", "f1"])
    check(tmp_path / "steps", loader, {"validate_every": 2}, (3, 4, 10, 11))
    check(tmp_path / "shares", Batches, {"validate_every": 0.4, "steps_per_epoch": 7}, (4, 7, 12))
