"""Data that fails: rows that cannot be loaded, and processes that are killed while they load."""

import multiprocessing
import os
import random
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from clarion.callbacks.base import Callback
from clarion.data.deaths import take_over_deaths
from clarion.errors import DataError, InvalidArgumentError, UnknownNameError
from clarion.model import Model

workers = pytest.mark.parametrize("num_workers", [0, 2])


class Rows(Dataset):
    """Forty rows with noise from three generators; some cannot be loaded."""

    def __init__(self, bad=()):
        self.bad = set(bad)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError(f"the picture of row {index} is cut off")
        noise = torch.rand(()) + random.random() + np.random.rand()
        x = torch.full((3,), float(index)) / 40 + 0.1 * noise
        return x, x.sum(0, keepdim=True)


class Sizes(nn.Linear):
    """A network that remembers the sizes of its batches."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(3, 1)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return super().forward(x)


def fitted(dataset, **options):
    model = Model(Sizes(), "adam", "mse")
    torch.manual_seed(3)
    options = {"batch_size": 8, "epochs": 1, "verbose": False, **options}
    model.fit_dataset(dataset, **options)
    return model


@workers
def test_a_row_that_cannot_be_loaded_is_named(num_workers):
    options = {"num_workers": num_workers, "dataloader_kwargs": {"shuffle": False}}
    with pytest.raises(ValueError, match="the picture of row 20 is cut off") as caught:
        fitted(Rows({20}), **options)
    told = str(caught.value) + " ".join(caught.value.__notes__)
    assert "This happened in row 20 of the dataset" in told
    assert "the train loader in epoch 1 was asked for batch 3" in told
    assert ("DataLoader worker process 0" in told) == (num_workers > 0)


def test_the_rows_of_a_batch_that_is_loaded_at_once_are_named():
    class Batches(Rows):
        def __getitems__(self, indices):
            return [self[index] for index in indices]

    with pytest.raises(ValueError, match="row 20") as caught:
        fitted(Batches({20}), dataloader_kwargs={"shuffle": False})
    assert "one of the rows 16, 17, 18, 19, 20, 21, 22, 23 of" in caught.value.__notes__[0]


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_batch_that_a_dataset_makes_at_once_stays_as_it_is(policy):
    class Whole(Rows):
        def __getitems__(self, indices):
            x, y = default_collate([self[index] for index in indices])
            return {"x": x, "labels": y}

    expected = fitted(Rows()).get_weights()
    model = fitted(Whole(), collate_fn=lambda batch: batch, on_bad_row=policy)
    torch.testing.assert_close(dict(model.get_weights()), dict(expected), rtol=0, atol=0)


@workers
def test_bad_rows_are_left_out_and_counted(num_workers):
    expected = r"^3 rows were left out of the train loader in epoch 1\. Rows .* picture of row"
    with pytest.warns(UserWarning, match=expected) as caught:
        model = fitted(Rows({1, 20, 39}), on_bad_row="skip", num_workers=num_workers)
    assert len(caught) == 1
    assert model.progress.bad_rows == 3
    assert sum(model.network.sizes) == 37
    assert len(model.network.sizes) == 5


def test_what_is_learnt_with_rows_left_out_does_not_depend_on_the_workers():
    weights, options = [], {"epochs": 2, "dataloader_kwargs": {"persistent_workers": False}}
    for num_workers in (0, 2):
        options["num_workers"] = num_workers
        with pytest.warns(UserWarning, match="left out"):
            model = fitted(Rows({1, 20, 39}), on_bad_row="skip", **options)
        assert model.progress.bad_rows == 6
        weights.append(model.get_weight_copies())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("policy", ["skip", "stop", None])
def test_without_bad_rows_the_policy_changes_nothing(policy):
    plain = fitted(Rows()).get_weights()
    guarded = fitted(Rows(), on_bad_row=policy).get_weights()
    torch.testing.assert_close(dict(guarded), dict(plain), rtol=0, atol=0)


def test_a_batch_without_a_good_row_is_an_error():
    with pytest.raises(DataError, match=r"all 8 rows of a batch .*Rows 8, 9, 10, 11, 12 and 3 mo"):
        fitted(Rows(range(8, 16)), on_bad_row="skip", dataloader_kwargs={"shuffle": False})


def test_rows_of_validation_data_are_never_left_out():
    with pytest.raises(ValueError, match="row 7 is cut off"):
        fitted(Rows(), on_bad_row="skip", valid_dataset=Rows({7}))


def test_where_rows_are_not_known_they_cannot_be_left_out():
    model = Model(nn.Linear(3, 1), "sgd", "mse")
    batches = [(torch.ones(2, 3), torch.ones(2, 1))]
    for loader in (batches, DataLoader(Rows(), batch_size=None)):
        with pytest.raises(InvalidArgumentError, match="needs a dataset whose examples are known"):
            model.fit_generator(loader, on_bad_row="skip", epochs=1)
    with pytest.raises(UnknownNameError, match=r"on_bad_row='skp'; did you mean \"skip\""):
        model.fit_generator(batches, on_bad_row="skp", epochs=1)
    model.fit(torch.ones(4, 3), torch.ones(4, 1), on_bad_row="skip", epochs=1, verbose=False)


def test_a_training_with_bad_rows_resumes_inside_an_epoch(tmp_path, build, assert_same):
    class Stop(Callback):
        def on_train_batch_end(self, batch_number, logs):
            if batch_number == 3 and self.model.progress.epoch == 1:
                os.kill(os.getpid(), signal.SIGUSR1)

    def run(directory, *callbacks):
        experiment = build(directory, monitoring=False)
        experiment.model.network[0] = nn.Linear(3, 16)
        options = {"verbose": False, "disable_tensorboard": True, "checkpoint_every": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            experiment.train_dataset(
                Rows({1, 20, 39}),
                epochs=3,
                batch_size=8,
                on_bad_row="skip",
                callbacks=callbacks,
                **options,
            )
        return experiment

    run(tmp_path / "parts", Stop())
    parts, whole = run(tmp_path / "parts"), run(tmp_path / "whole")
    assert parts.model.progress.bad_rows == whole.model.progress.bad_rows == 9
    assert_same(parts, whole)


class Murder(Callback):
    """Kills a process that loads data, in some batches."""

    def __init__(self, batches, epochs=(1,)):
        self.batches, self.epochs = batches, epochs
        self.epoch = 0
        self.killed = []

    def on_epoch_begin(self, epoch_number, logs):
        self.epoch = epoch_number

    def on_train_batch_begin(self, batch_number, logs):
        if self.epoch in self.epochs and batch_number in self.batches:
            pids = [child.pid for child in multiprocessing.active_children()]
            self.killed += pids
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [False, True])
def test_workers_that_are_killed_are_replaced_and_nothing_differs(keeps):
    options = {"num_workers": 2, "epochs": 2}
    options["dataloader_kwargs"] = {"prefetch_factor": 1, "persistent_workers": keeps}
    weights = fitted(Rows(), **options).get_weight_copies()
    murder = Murder([2], epochs=(1, 2))
    with pytest.warns(UserWarning, match=r"exit code -9.*\)\. Others take") as told:
        model = fitted(Rows(), callbacks=[murder], **options)
    assert len(murder.killed) >= 4
    assert len(told) == 2
    assert model.network.sizes == [8] * 10
    torch.testing.assert_close(model.get_weight_copies(), weights, rtol=0, atol=0)


class Deadly(Rows):
    """Rows of which one kills the process that loads it, once, at the worst moment."""

    def __init__(self, flag):
        super().__init__()
        self.flag = flag

    def __getitem__(self, index):
        if index == 20 and not self.flag.exists():
            self.flag.touch()
            frame = sys._getframe()
            while "done_event" not in frame.f_locals:
                frame = frame.f_back
            # A worker holds this lock whenever it asks whether its end has come.
            frame.f_locals["done_event"]._cond.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_at_the_worst_moment_is_replaced_and_its_rows_named(tmp_path):
    options = {"num_workers": 2, "dataloader_kwargs": {"shuffle": False}}
    weights = fitted(Rows(), **options).get_weight_copies()
    rows = r"\(exit code -9; it was to load .*rows 16, 17, 18, 19, 20, 21, 22, 23.*\)\. Others"
    with pytest.warns(UserWarning, match=rows):
        model = fitted(Deadly(tmp_path / "flag"), **options)
    torch.testing.assert_close(model.get_weight_copies(), weights, rtol=0, atol=0)


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again_end_the_training(monkeypatch):
    monkeypatch.setattr("clarion.data.feed.KILLS_OUTLIVED", 1)
    options = {"num_workers": 1, "batch_size": 2, "dataloader_kwargs": {"prefetch_factor": 1}}
    with (
        pytest.warns(UserWarning, match="Others take the place"),
        pytest.raises((RuntimeError, OSError, EOFError)) as caught,
    ):
        fitted(Rows(), callbacks=[Murder(range(2, 40))], **options)
    told = " ".join(caught.value.__notes__)
    assert "; once in this pass others have taken its place. Often memory has run out" in told
    assert "the train loader in epoch 1 was asked for batch" in told


def test_a_handler_of_ones_own_for_the_death_of_children_stays():
    def mine(number, frame):
        pass

    before = signal.signal(signal.SIGCHLD, mine)
    try:
        take_over_deaths()
        assert signal.getsignal(signal.SIGCHLD) is mine
    finally:
        signal.signal(signal.SIGCHLD, before)
