"""The raw batches of a loader, pass after pass, from any position."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from clarion.data.feed import Feed


def take(loader, steps, where):
    return Feed(loader).take(steps, where)


class Recorder:
    """An iterable that counts what is asked of it."""

    def __init__(self, batches):
        self.batches = batches
        self.iters = self.nexts = 0

    def __iter__(self):
        self.iters += 1
        return Iterator(self)


class Iterator:
    def __init__(self, recorder):
        self.recorder = recorder
        self.left = list(recorder.batches)

    def __iter__(self):
        return self

    def __next__(self):
        self.recorder.nexts += 1
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


# --- take ----------------------------------------------------------------------------------------


def test_take_asks_exactly_as_often_as_it_gives():
    loader = Recorder([1, 2, 3])

    assert list(take(loader, 2, "the loader")) == [1, 2]
    assert (loader.iters, loader.nexts) == (1, 2)


def test_take_starts_the_loader_again_when_it_ends_early():
    loader = Recorder([1, 2])

    assert list(take(loader, 5, "the loader")) == [1, 2, 1, 2, 1]
    assert (loader.iters, loader.nexts) == (3, 7)


def test_take_without_a_number_ends_with_the_loader():
    loader = Recorder([1, 2])

    assert list(take(loader, None, "the loader")) == [1, 2]
    assert (loader.iters, loader.nexts) == (1, 3)


def test_an_endless_generator_goes_on():
    def endless():
        number = 0
        while True:
            yield number
            number += 1

    generator = endless()
    assert list(take(generator, 3, "the loader")) == [0, 1, 2]
    assert list(take(generator, 3, "the loader")) == [3, 4, 5]


def test_a_generator_that_runs_dry_ends_in_an_error_and_not_in_a_loop():
    generator = (i for i in range(3))

    with pytest.raises(
        ValueError, match=r"^The train loader ended after 3 batches of the 5 it should give: .*once"
    ):
        list(take(generator, 5, "the train loader"))


@pytest.mark.parametrize("steps", [None, 5])
def test_a_generator_that_is_dry_from_the_start(steps):
    with pytest.raises(ValueError, match=r"^The train loader gave no batch.*read only once"):
        list(take((i for i in range(0)), steps, "the train loader"))


def test_a_loader_without_a_batch():
    with pytest.raises(ValueError, match=r"^The loader gave no batch; check that the data is not"):
        list(take(Recorder([]), None, "the loader"))


def test_an_error_of_the_data_keeps_its_type_and_says_where():
    class Broken(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"a": 1}["b"] if index == 2 else index

    with pytest.raises(KeyError) as caught:
        list(take(DataLoader(Broken()), None, "the train loader in epoch 1"))
    assert caught.value.__notes__ == [
        "This happened while the train loader in epoch 1 was asked for batch 3."
    ]


def test_examples_of_different_sizes_are_explained():
    data = [torch.ones(2), torch.ones(3)]

    with pytest.raises(RuntimeError) as caught:
        list(take(DataLoader(data, batch_size=2), None, "the train loader"))
    assert "Pass a collate_fn that pads them" in caught.value.__notes__[-1]
