import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from clarion.data.arrays import ArrayBatches
from clarion.data.traits import differences, traits_of

X, Y = torch.zeros(10, 3), torch.zeros(10, dtype=torch.int64)


class Rows(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        raise AssertionError("an example was loaded")


def test_arrays_and_tensor_datasets_are_known_alike():
    expected = {
        "number of examples": 10,
        "examples": "(float32 [3], int64 [])",
        "batch size": 4,
        "number of batches": 3,
    }
    assert traits_of(ArrayBatches((X, Y), 4)) == expected
    assert traits_of(DataLoader(TensorDataset(X, Y), 4)) == expected
    assert traits_of(ArrayBatches({"a": np.zeros((4, 2))}, 4))["examples"] == "{a: float64 [2]}"


def test_no_example_is_loaded():
    assert traits_of(DataLoader(Rows(), 5)) == {
        "number of examples": 10,
        "batch size": 5,
        "number of batches": 2,
    }


def test_columns_are_known_by_name():
    rows = datasets.Dataset.from_dict({"b": [1, 2], "a": ["x", "y"]})
    text = traits_of(DataLoader(rows))["examples"]
    assert text.index("a Value") < text.index("b Value")
    assert "string" in text


def test_of_iterables_nothing_is_known():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    for loader in (DataLoader(Stream()), [1, 2], iter([1])):
        assert traits_of(loader) == {}


def test_only_what_is_known_of_both_can_differ():
    then = {"number of examples": 10, "batch size": 4, "examples": "a" * 150}
    now = {"number of examples": 12, "batch size": 4, "number of batches": 3, "examples": "b"}
    assert differences(then, now) == [
        "number of examples: got 12, expected 10",
        f"examples: got b, expected {'a' * 100}...",
    ]
    assert differences({}, now) == differences(then, {}) == []
