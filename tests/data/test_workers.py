"""Loading in other processes, set up for the machine."""

import os

import pytest
import torch
from torch.utils.data import TensorDataset

from clarion import ClarionError
from clarion.data.arrays import ArrayBatches
from clarion.data.loaders import dataset_loader
from clarion.data.workers import with_worker_defaults

EXAMPLES = [torch.ones(2)] * 6


def use_processors(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)), raising=False)


def test_without_workers_nothing_is_set():
    assert with_worker_defaults(EXAMPLES, {"batch_size": 2}) == {"batch_size": 2}


def test_workers_stay_and_fetch_ahead():
    options = with_worker_defaults(EXAMPLES, {"num_workers": 2})
    assert options == {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4}
    chosen = {"num_workers": 2, "persistent_workers": False, "prefetch_factor": 1}
    assert with_worker_defaults(EXAMPLES, chosen) == chosen


def test_workers_do_not_outlive_an_epoch_that_the_dataset_is_told_of():
    class Own(list):
        def set_epoch(self, epoch):
            pass

    assert "persistent_workers" not in with_worker_defaults(Own(EXAMPLES), {"num_workers": 1})


def test_batches_are_pinned_where_there_is_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert with_worker_defaults(EXAMPLES, {})["pin_memory"] is True
    assert with_worker_defaults(EXAMPLES, {"pin_memory": False})["pin_memory"] is False


@pytest.mark.parametrize(
    ("processors", "ranks", "workers"), [(1, 1, 0), (4, 1, 3), (64, 1, 8), (8, 4, 1), (2, 4, 0)]
)
def test_auto_takes_the_processors_to_spare(monkeypatch, processors, ranks, workers):
    use_processors(monkeypatch, processors)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert with_worker_defaults(EXAMPLES, {"num_workers": "auto"})["num_workers"] == workers


def test_auto_loads_arrays_in_this_process_and_other_datasets_in_others(monkeypatch):
    use_processors(monkeypatch, 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    tensors = TensorDataset(torch.arange(6.0))

    assert type(dataset_loader(tensors, "dataset", num_workers="auto")) is ArrayBatches
    loader = dataset_loader(EXAMPLES, "dataset", num_workers="auto", batch_size=4)
    assert loader.num_workers == 1
    assert [len(batch) for batch in loader] == [4, 2]
    del loader


def test_other_words_are_refused():
    with pytest.raises(ClarionError, match='num_workers is "all"; it is a whole number, or "auto"'):
        dataset_loader(EXAMPLES, "dataset", num_workers="all")


@pytest.mark.parametrize("workers", [1.5, -1, None, True])
def test_workers_are_counted_in_whole_numbers(workers):
    with pytest.raises(ClarionError, match=f"num_workers is {workers}; it must be a whole number"):
        with_worker_defaults(EXAMPLES, {"num_workers": workers})
