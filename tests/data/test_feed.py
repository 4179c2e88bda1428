"""The raw batches of a loader, pass after pass, from any position."""

import os
import random

import datasets
import numpy as np
import pytest
import torch
from recording import Recorder
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from clarion.checkpoints.random import RandomState
from clarion.data.arrays import ArrayBatches
from clarion.data.feed import Feed
from clarion.data.seeding import draws_numbers


def take(loader, steps, where):
    return Feed(loader).take(steps, where)


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


class ByHand:
    """The usual loader by hand: ``__iter__`` sets it back, and knows alone where it begins."""

    def __init__(self, length):
        self.length = length

    def __iter__(self):
        self.number = 0
        return self

    def __next__(self):
        if self.number == self.length:
            raise StopIteration
        self.number += 1
        return self.number


class GoingOn(ByHand):
    """An iterator that only returns itself."""

    def __init__(self, length):
        super().__init__(length)
        self.number = 0

    def __iter__(self):
        """Return itself."""
        return self


def test_a_loader_that_sets_itself_back_starts_anew_at_each_pass():
    feed = Feed(ByHand(100))
    assert [list(feed.take(2, "the loader")) for _ in range(3)] == [[1, 2]] * 3


def test_a_loader_that_sets_itself_back_starts_anew_where_steps_ask_for_more():
    assert list(take(ByHand(3), 5, "the loader")) == [1, 2, 3, 1, 2]


def test_a_loader_that_sets_itself_back_is_not_called_a_generator():
    with pytest.raises(ValueError, match="gave no batch; check that the data is not empty"):
        list(take(ByHand(0), None, "the loader"))


def test_an_iterator_that_only_returns_itself_goes_on():
    feed = Feed(GoingOn(100))
    assert [list(feed.take(2, "the loader")) for _ in range(2)] == [[1, 2], [3, 4]]


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
        "This happened in row 2 of the dataset.",
        "This happened while the train loader in epoch 1 was asked for batch 3.",
    ]


def test_examples_of_different_sizes_are_explained():
    data = [torch.ones(2), torch.ones(3)]

    with pytest.raises(RuntimeError) as caught:
        list(take(DataLoader(data, batch_size=2), None, "the train loader"))
    assert "Pass a collate_fn that pads them" in caught.value.__notes__[-1]


# --- from any position ---------------------------------------------------------------------------


class Noted(Dataset):
    """Examples that are changed at random, and the indices that were asked for."""

    def __init__(self, size=10):
        self.size = size
        self.asked = []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked.append(index)
        noise = torch.rand(1).double() + random.random() + np.random.normal()
        return index + noise


class Together(Noted):
    """The same, a batch at once."""

    def __getitems__(self, indices):
        assert isinstance(indices, list)
        self.asked.extend(indices)
        return [torch.tensor(index) for index in indices]


def seeded(seed=3):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def drawn():
    return torch.rand(1).item(), random.random(), np.random.normal()


def loaded(loader, epoch=1, steps=None):
    return list(Feed(loader).take(steps, "the loader", epoch))


def resumed(make, done, steps=None, epochs=1):
    """Return what is left of the last pass after so many batches, and what is drawn after them."""
    seeded()
    feed = Feed(make(), remembers=True)
    for epoch in range(1, epochs):
        list(feed.take(steps, "it", epoch))
    batches = feed.take(steps, "it", epochs)
    for _ in range(done):
        next(batches)
        torch.rand(1)  # as a network does
    state, here = feed.state_dict(inside=True), RandomState().state_dict()
    rest = list(batches)
    after = drawn()
    seeded(99)
    loader = make()
    other = Feed(loader, remembers=True)
    RandomState().load_state_dict(here)
    other.load_state_dict(state)
    again = list(other.take(steps, "it", epochs))
    assert len(again) == len(rest)
    for one, two in zip(again, rest, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(two))
    assert drawn() == after
    return loader, rest


class TestResumed:
    @pytest.mark.parametrize("done", [1, 2, 4, 5])
    def test_rows_that_are_done_are_not_loaded(self, done):
        dataset = []

        def make():
            dataset.append(Noted())
            return DataLoader(dataset[-1], batch_size=2, shuffle=True)

        resumed(make, done)
        assert len(dataset[-1].asked) == 10 - 2 * done

    def test_in_the_second_round_of_a_long_pass(self):
        _, rest = resumed(lambda: DataLoader(Noted(), batch_size=2, shuffle=True), 7, steps=12)
        assert len(rest) == 5

    def test_in_a_later_pass(self):
        generator = torch.Generator().manual_seed(4)
        kept = generator.get_state()

        def make():
            generator.set_state(kept)
            return DataLoader(Noted(), batch_size=2, shuffle=True, generator=generator)

        resumed(make, 2, epochs=3)

    def test_a_dataset_that_loads_a_batch_at_once(self):
        dataset = Together()
        _, rest = resumed(lambda: DataLoader(dataset, batch_size=2, shuffle=True), 3)
        assert len(rest) == 2

    def test_arrays_begin_at_the_batch(self):
        x = torch.arange(1000)
        _, rest = resumed(lambda: ArrayBatches(x, 3, shuffle=True), 150)
        assert torch.cat([torch.as_tensor(one) for one in rest]).numel() == 1000 - 450

    def test_a_generator_is_brought_to_where_the_other_one_was(self):
        def make():
            return (torch.tensor(i) for i in range(100))

        _, rest = resumed(make, 3, steps=5, epochs=4)
        assert rest == [18, 19]

    def test_a_generator_of_this_process_goes_on(self):
        generator = (i for i in range(100))
        feed = Feed(generator, remembers=True)
        assert list(feed.take(4, "it", 1)) == [0, 1, 2, 3]
        other = Feed(generator, remembers=True)
        other.load_state_dict(feed.state_dict(inside=False))
        assert list(other.take(2, "it", 2)) == [4, 5]
        assert other.state_dict(inside=False)["reader"] == {"given": 6}

    def test_a_generator_for_a_training_of_its_own_is_not_advanced(self):
        feed = Feed(iter(range(9)), remembers=True)
        list(feed.take(4, "it", 1))
        other = Feed((i for i in range(9)), remembers=True)
        other.load_state_dict(feed.state_dict(inside=False), anew=True)
        assert list(other.take(2, "it", 2)) == [0, 1]

    def test_a_generator_that_is_further_cannot_go_back(self):
        generator = (i for i in range(100))
        feed = Feed(generator, remembers=True)
        list(feed.take(4, "it", 1))
        state = feed.state_dict(inside=False)
        list(feed.take(2, "it", 2))
        other = Feed(generator, remembers=True)
        other.load_state_dict(state)
        with pytest.warns(UserWarning, match=r"has given 6 batches.*written after 4\. It cannot"):
            assert next(other.take(2, "it", 2)) == 6


# --- random numbers inside datasets --------------------------------------------------------------


class TestRandomness:
    def test_the_number_of_workers_changes_nothing(self):
        results = []
        for workers in (0, 1, 2):
            seeded()
            loader = DataLoader(Noted(), batch_size=3, shuffle=True, num_workers=workers)
            results.append((torch.cat(loaded(loader)), drawn()))
        for numbers, after in results[1:]:
            assert torch.equal(numbers, results[0][0])
            assert after == results[0][1]

    def test_the_order_is_that_of_the_loader_alone(self):
        loader = DataLoader(Together(), batch_size=3, shuffle=True)
        seeded()
        alone, after = torch.cat(list(loader)), drawn()
        seeded()
        assert torch.equal(torch.cat(loaded(loader)), alone)
        assert drawn() == after

    def test_each_batch_and_each_epoch_draws_anew(self):
        seeded()
        generator = torch.Generator()  # so that no pass draws from the global one
        loader = DataLoader(Noted(), batch_size=5, generator=generator)
        feed = Feed(loader)
        noise = [
            batch - torch.arange(i % 2 * 5, i % 2 * 5 + 5)[:, None]
            for i, batch in enumerate([*feed.take(4, "it", 1), *feed.take(2, "it", 2)])
        ]
        assert len({value for part in noise for value in part.flatten().tolist()}) == 30

    def test_states_are_put_back_after_an_error(self):
        class Broken(Noted):
            def __getitem__(self, index):
                super().__getitem__(index)
                raise ArithmeticError

        loader = DataLoader(Broken(), batch_size=2)
        seeded()
        list(DataLoader(Together(), batch_size=2))
        after = drawn()
        seeded()
        with pytest.raises(ArithmeticError):
            loaded(loader)
        assert drawn() == after

    def test_a_held_back_normal_number_stays(self):
        loader = DataLoader(Noted(), batch_size=2)
        seeded()
        np.random.normal()  # numpy makes two at once
        expected = np.random.normal()
        seeded()
        np.random.normal()
        loaded(loader)
        assert np.random.normal() == expected

    def test_a_function_that_collates_draws_from_the_seed_too(self):
        def collate(examples):
            return torch.stack(examples) + torch.rand(1)

        def make(workers=0):
            data = TensorDataset(torch.arange(10))
            return DataLoader(
                [row for (row,) in data], batch_size=2, collate_fn=collate, num_workers=workers
            )

        resumed(make, 2)
        seeded()
        alone = torch.cat(loaded(make()))
        seeded()
        assert torch.equal(torch.cat(loaded(make(2))), alone)

    def test_workers_know_the_dataset_of_the_user(self):
        loader = DataLoader(Noted(), batch_size=5, num_workers=1, worker_init_fn=check_dataset)
        assert len(loaded(loader)) == 2


def check_dataset(worker):
    info = torch.utils.data.get_worker_info()
    assert (worker, type(info.dataset)) == (0, Noted)


# --- which loaders are read how ------------------------------------------------------------------


def test_loaders_with_an_iteration_of_their_own_are_left_to_themselves():
    class Twice(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                yield batch
                yield batch

    data = torch.arange(4)
    assert [one.tolist() for one in loaded(Twice(data, batch_size=2))] == [
        [0, 1],
        [0, 1],
        [2, 3],
        [2, 3],
    ]
    resumed(lambda: Twice(data, batch_size=2, shuffle=True), 3)


def test_workers_that_stay_are_those_of_the_pass_before():
    loader = DataLoader(Pids(), batch_size=2, num_workers=1, persistent_workers=True)
    first, second = (set(torch.cat(loaded(loader, epoch)).tolist()) for epoch in (1, 2))
    assert first == second
    twice = set(torch.cat(list(take(loader, 4, "the train loader"))).tolist())
    assert twice == first


def test_a_traversal_inside_another_one_of_a_loader_whose_workers_stay_leaves_it_alone():
    rows = torch.arange(8)
    loader = DataLoader(rows, batch_size=2, num_workers=1, persistent_workers=True)
    outer, inner = Feed(loader), Feed(loader)
    found = []
    for batch in outer.take(None, "the outer loader"):
        found.append(batch.tolist())
        inside = [one.tolist() for one in inner.take(None, "the inner loader")]
        assert inside == rows.view(4, 2).tolist()
    assert found == rows.view(4, 2).tolist()


class Pids(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return os.getpid()


def test_what_may_draw():
    plain = torch.arange(3)
    rows = datasets.Dataset.from_dict({"a": [1, 2]})
    for dataset in (plain, [1, 2], TensorDataset(plain), Subset(TensorDataset(plain), [0]), rows):
        assert not draws_numbers(dataset, default_collate)
    transformed = rows.with_transform(lambda row: row)
    for dataset in (Noted(), transformed, Subset(Noted(), [1])):
        assert draws_numbers(dataset, default_collate)
    assert draws_numbers(plain, torch.stack)


@pytest.mark.parametrize("kind", [torch.ones, lambda length: [1] * length])
def test_examples_of_different_sizes_ask_for_padding(kind):
    loader = DataLoader([kind(2), kind(3)], batch_size=2)
    with pytest.raises(RuntimeError, match="equal size") as caught:
        list(take(loader, None, "the train loader"))
    assert "Pass a collate_fn that pads them" in caught.value.__notes__[1]
