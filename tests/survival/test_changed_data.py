"""Train data that are not those of the checkpoint when a training goes on."""

from functools import partial

import pytest
import torch
from torch.utils.data import Dataset

from clarion.data.feed import Feed
from clarion.errors import CheckpointError

QUIET = {"verbose": False, "disable_tensorboard": True}


class Rows(Dataset):
    def __init__(self, n):
        self.x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.x[index].sum(0, keepdim=True)


@pytest.fixture
def plain(build):
    """Return a function that builds an experiment that watches nothing."""
    return partial(build, monitoring=False)


def inside(plain, directory, n=24):
    """Return the history of a training that ended after two batches of three of its epoch 2."""
    return plain(directory).train_dataset(Rows(n), epochs=3, batch_size=8, max_steps=5, **QUIET)


def test_inside_an_epoch_other_data_are_refused(plain, tmp_path):
    inside(plain, tmp_path)
    with pytest.raises(CheckpointError, match=r"^Cannot go on after batch 2 of an epoch") as caught:
        plain(tmp_path).train_dataset(Rows(30), epochs=3, batch_size=4, **QUIET)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "  number of examples: got 30, expected 24",
        "  batch size: got 4, expected 8",
        "  number of batches: got 8, expected 3",
    ]
    assert lines[-1].startswith("Pass the data as they were")
    history = plain(tmp_path).train_dataset(Rows(24), epochs=3, batch_size=8, **QUIET)
    assert [row["epoch"] for row in history] == [2, 3]


def test_arrays_of_another_layout_are_refused(build, train, rows, tmp_path):
    x, y = rows
    train(build(tmp_path), 2, max_steps=5)
    experiment = build(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"examples: got \(float64 \[4\], .* expected \(float"
    ):
        experiment.train_data(x.double(), y, (x, y), batch_size=8, epochs=2, **QUIET)


def test_between_epochs_other_data_are_told_once(plain, tmp_path):
    plain(tmp_path).train_dataset(Rows(24), epochs=1, batch_size=8, **QUIET)
    with pytest.warns(UserWarning, match="From epoch 2 on .* got 30, expected 24; ") as caught:
        plain(tmp_path).train_dataset(Rows(30), epochs=2, batch_size=8, **QUIET)
    assert len(caught) == 1
    plain(tmp_path).train_dataset(Rows(30), epochs=4, batch_size=8, **QUIET)


def test_other_data_that_nothing_is_left_to_do_for_are_told(plain, tmp_path):
    plain(tmp_path).train_dataset(Rows(24), epochs=1, batch_size=8, **QUIET)
    told = r"^Nothing was trained, since .* number of examples: got 30, expected 24; .*directory\.$"
    for _ in range(2):  # the next time too: they are still not what it was trained on
        with pytest.warns(UserWarning, match=told):
            assert plain(tmp_path).train_dataset(Rows(30), epochs=1, batch_size=8, **QUIET) == []


def test_the_same_data_that_nothing_is_left_to_do_for_are_no_matter(plain, tmp_path):
    plain(tmp_path).train_dataset(Rows(24), epochs=1, batch_size=8, **QUIET)
    assert plain(tmp_path).train_dataset(Rows(24), epochs=1, batch_size=8, **QUIET) == []


def test_a_checkpoint_that_does_not_know_its_data_loads(plain, tmp_path, monkeypatch):
    def without_traits(feed, *, inside):
        return {key: one for key, one in asked(feed, inside=inside).items() if key != "traits"}

    asked = Feed.state_dict
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "state_dict", without_traits)
        inside(plain, tmp_path)
    history = plain(tmp_path).train_dataset(Rows(24), epochs=3, batch_size=8, **QUIET)
    assert [row["epoch"] for row in history] == [2, 3]
