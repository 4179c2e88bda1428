"""Errors that end a training: saved between two steps, and nothing new inside of one."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from clarion.callbacks.base import Callback
from clarion.checkpoints.reader import read_newest

QUIET = {"verbose": False, "disable_tensorboard": True, "checkpoint_every": None}


class Rows(Dataset):
    """Forty rows with noise; it raises when it has given so many."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.given = 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        noise = torch.rand(()) + random.random() + np.random.rand()
        if self.given == self.fails_at:
            raise OSError("the disk with the pictures is gone")
        self.given += 1
        x = torch.full((4,), float(index)) / 40 + 0.1 * noise
        return x.float(), x.sum(0, keepdim=True).float()


@pytest.fixture
def plain(build):
    """Return a function that builds an experiment that watches nothing."""
    return partial(build, monitoring=False)


def fit(experiment, dataset, **options):
    options = {"epochs": 3, "batch_size": 8, **QUIET, **options}
    return experiment.train_dataset(dataset, **options)


def own():
    return {"dataloader_kwargs": {"shuffle": True, "generator": torch.Generator().manual_seed(5)}}


@pytest.mark.parametrize("make_options", [dict, own], ids=["global generator", "own generator"])
@pytest.mark.parametrize("batch", [2, 5])
def test_when_the_dataset_is_mended_it_goes_on_at_the_batch_that_failed(
    plain, assert_same, tmp_path, batch, make_options
):
    whole = plain(tmp_path / "whole")
    fit(whole, Rows(), **make_options())
    failing = plain(tmp_path / "run")
    with pytest.raises(OSError, match="pictures is gone") as caught:
        fit(failing, Rows(40 + 8 * (batch - 1) + 3), **make_options())
    assert "on_exception" not in " ".join(caught.value.__notes__)
    info = read_newest(failing.checkpoint_directory).manifest.info
    assert (info["epoch"], info["batch"]) == (1, batch - 1)
    assert info["reason"] == "exception: OSError: the disk with the pictures is gone"
    torch.manual_seed(9)  # another process
    resumed, dataset = plain(tmp_path / "run"), Rows()
    history = fit(resumed, dataset, **make_options())
    assert [row["epoch"] for row in history] == [2, 3]
    assert dataset.given == 8 * (5 - batch + 1) + 40
    assert_same(resumed, whole)


def test_an_error_of_another_worker_goes_on_too(plain, assert_same, tmp_path):
    options = {"num_workers": 1, "epochs": 2}
    whole = plain(tmp_path / "whole")
    fit(whole, Rows(), **options)
    with pytest.raises(OSError, match="pictures is gone"):
        fit(plain(tmp_path / "run"), Rows(40 + 19), **options)
    resumed = plain(tmp_path / "run")
    assert read_newest(resumed.checkpoint_directory).manifest.info["batch"] == 2
    fit(resumed, Rows(), **options)
    assert_same(resumed, whole)


class Explodes(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, x):
        if self.training:
            self.calls -= 1
            if self.calls < 0:
                raise RuntimeError("the network is broken")
        return x


class Breaks(Callback):
    def on_train_batch_end(self, batch_number, logs):
        if self.model.progress.step == 8:
            raise RuntimeError("the callback is broken")


def test_in_the_middle_of_a_step_the_last_checkpoint_stays(plain, tmp_path):
    inside, beside = plain(tmp_path / "a"), plain(tmp_path / "b")
    inside.model.network.append(Explodes(7))
    with pytest.raises(RuntimeError, match="network is broken"):
        fit(inside, Rows())
    with pytest.raises(RuntimeError, match="callback is broken"):
        fit(beside, Rows(), callbacks=[Breaks()])
    for experiment in (inside, beside):
        info = read_newest(experiment.checkpoint_directory).manifest.info
        assert (info["epoch"], info["batch"], info["reason"]) == (1, 0, "epoch")


@pytest.mark.parametrize(("batch", "saved"), [(2, 0), (3, 2)])
def test_of_accumulated_steps_only_whole_ones_are_saved(plain, tmp_path, batch, saved):
    experiment = plain(tmp_path)
    with pytest.raises(OSError, match="pictures is gone"):
        fit(experiment, Rows(40 + 8 * (batch - 1)), batches_per_step=2)
    assert read_newest(experiment.checkpoint_directory).manifest.info["batch"] == saved


def test_what_draws_from_the_global_generators_as_it_goes_is_not_saved(plain, tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            for i in range(40):
                yield rows[i]

    rows, experiment = Rows(60), plain(tmp_path)
    with pytest.raises(OSError, match="pictures is gone"):
        fit(experiment, Stream())
    info = read_newest(experiment.checkpoint_directory).manifest.info
    assert (info["epoch"], info["batch"]) == (1, 0)


def test_an_error_while_saving_hides_nothing(plain, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no room")

    experiment = plain(tmp_path)
    monkeypatch.setattr("clarion.experiment.training_checkpoint.TrainingCheckpoint.save", refuse)
    with pytest.raises(OSError, match="pictures is gone") as caught:
        fit(experiment, Rows(20))
    assert "on_exception of a callback failed too: OSError('no room')" in caught.value.__notes__
