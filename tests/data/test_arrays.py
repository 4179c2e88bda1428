"""Batches of arrays in memory, and what counts as an array."""

from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch.utils.data import DataLoader, TensorDataset as TorchTensorDataset

from clarion import ClarionError
from clarion.data import arrays
from clarion.data.arrays import ArrayBatches, as_arrays, is_table


def as_lists(batches):
    return [batch.tolist() for batch in batches]


# --- ArrayBatches --------------------------------------------------------------------------------


def test_batches_come_in_order_and_the_last_may_be_smaller():
    batches = ArrayBatches(torch.arange(7), batch_size=3)

    assert len(batches) == 3
    assert as_lists(batches) == [[0, 1, 2], [3, 4, 5], [6]]


def test_drop_last_leaves_out_a_batch_that_is_not_full():
    batches = ArrayBatches(torch.arange(7), batch_size=3, drop_last=True)

    assert len(batches) == 2
    assert as_lists(batches) == [[0, 1, 2], [3, 4, 5]]


def test_the_structure_of_the_arrays_is_kept():
    data = ([np.arange(4), (torch.arange(4) + 10,)], {"a": np.arange(4) + 20})

    (first, second), mapping = next(iter(ArrayBatches(data, batch_size=2)))

    assert first.tolist() == [0, 1]
    assert second[0].tolist() == [10, 11]
    assert mapping["a"].tolist() == [20, 21]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_seed_gives_the_batches_of_a_data_loader(shuffle, seed):
    x = torch.arange(50)

    def epochs(loader):
        torch.manual_seed(seed)
        return [[batch[0].tolist() for batch in loader] for _ in range(2)] + [torch.rand(1).item()]

    ours = epochs(ArrayBatches((x,), batch_size=8, shuffle=shuffle))
    assert ours == epochs(DataLoader(TorchTensorDataset(x), batch_size=8, shuffle=shuffle))
    assert (ours[0] == ours[1]) is not shuffle


def test_a_generator_of_its_own_leaves_the_global_one_alone():
    def loader(cls, data):
        generator = torch.Generator().manual_seed(3)
        return cls(data, batch_size=4, shuffle=True, generator=generator)

    x = torch.arange(20)
    before = torch.get_rng_state()
    ours = [batch[0].tolist() for batch in loader(ArrayBatches, (x,))]

    assert torch.equal(torch.get_rng_state(), before)
    assert ours == [batch[0].tolist() for batch in loader(DataLoader, TorchTensorDataset(x))]


@pytest.mark.parametrize("shuffle", [False, True])
def test_blocks_do_not_show(monkeypatch, shuffle):
    x = torch.arange(101)

    def batches():
        torch.manual_seed(0)
        return as_lists(ArrayBatches(x, batch_size=4, shuffle=shuffle))

    whole = batches()
    monkeypatch.setattr(arrays, "_BATCHES_PER_BLOCK", 3)
    assert batches() == whole
    monkeypatch.setattr(arrays, "_BYTES_PER_BLOCK", 1)
    assert batches() == whole
    assert sorted(row for batch in whole for row in batch) == x.tolist()


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_from_any_on_lie_in_memory_as_those_of_a_whole_traversal(shuffle):
    # How a kernel rounds depends on it, and with it whether a resumed training is exact.
    batches = ArrayBatches(torch.arange(1050).reshape(350, 3), batch_size=5, shuffle=shuffle)

    def looks(first):
        torch.manual_seed(0)
        return [(batch.tolist(), batch.storage_offset()) for batch in batches.begin(first)]

    whole = looks(0)
    assert len(whole) == 70  # more than a block
    for first in (1, 13, 63, 64, 66, 70):
        assert looks(first) == whole[first:]


def test_working_in_place_on_a_batch_leaves_the_data_alone():
    x = torch.zeros(4)
    for batch in ArrayBatches(x, batch_size=2):
        batch.add_(1)

    assert x.tolist() == [0.0] * 4


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None, "2"])
def test_a_batch_size_that_is_no_count(batch_size):
    with pytest.raises(ValueError, match=r"batch_size is .*whole number of at least 1"):
        ArrayBatches(torch.arange(4), batch_size=batch_size)


def test_numpys_integers_are_counts():
    assert len(ArrayBatches(torch.arange(4), batch_size=np.int64(2))) == 2


# --- as_arrays -----------------------------------------------------------------------------------


def test_tensors_and_ndarrays_are_taken_as_they_are():
    tensor, array = torch.ones(2), np.ones(2)

    assert as_arrays(tensor, "x") is tensor
    assert as_arrays(array, "x") is array


def test_structures_are_kept():
    Pair = namedtuple("Pair", "left right")
    data = {"a": (np.ones(2), [np.ones(2)]), "b": Pair(np.ones(2), torch.ones(2))}

    result = as_arrays(data, "x")

    assert type(result["a"]) is tuple
    assert type(result["a"][1]) is list
    assert type(result["b"]) is Pair


def test_data_frames_and_series_become_arrays():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})

    assert as_arrays(frame, "x").tolist() == [[1, 0.5], [2, 1.5]]
    assert as_arrays(frame["a"], "y").dtype == np.int64


def test_booleans_beside_numbers_in_a_frame_are_numbers():
    frame = pd.DataFrame({"a": [1, 2], "b": [True, False]})

    assert as_arrays(frame, "x").tolist() == [[1, 1], [2, 0]]


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        ([1, 2], torch.int64),
        ((1.0, 2), torch.float32),
        ([True, False], torch.bool),
        ([np.float32(1), np.float32(2)], torch.float32),
        ([[1, 2], [3, 4]], torch.int64),
        ([(1.0, 2.0), (3.0, 4.0)], torch.float32),
        ([[[1.0], [2.0]], [[3.0], [4.0]]], torch.float32),
        (range(3), torch.int64),
    ],
)
def test_lists_of_numbers_and_of_rows_are_tables(numbers, dtype):
    result = as_arrays(numbers, "x")

    assert result.dtype == dtype
    assert result.tolist() == torch.tensor(numbers).tolist()


def test_a_tuple_of_lists_is_several_inputs():
    result = as_arrays(([1.0, 2.0], [3, 4]), "x")

    assert type(result) is tuple
    assert [part.tolist() for part in result] == [[1.0, 2.0], [3, 4]]


def test_what_is_a_table():
    assert is_table([1, 2])
    assert is_table([[1, 2]])
    assert not is_table([])
    assert not is_table([[]])
    assert not is_table(([1, 2], [3, 4]))
    assert not is_table(["a"])
    assert not is_table([[np.ones(2)]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "x is a str; pass an ndarray"),
        (torch.eye(2).to_sparse(), r"x is a Tensor with sparse storage.*x\.to_dense\(\)"),
        (sparse.csr_matrix(np.eye(2)), r"x is a csr_matrix with sparse storage.*x\.toarray\(\)"),
        (3, "x is an int; pass an ndarray"),
        ([np.ones(2), "a"], r"x\[1\] is a str"),
        ({"a": [object()]}, r'x\["a"\]\[0\] is an object'),
        (None, "x is None; pass"),
        (np.array(["a", "b"]), "x is an ndarray of dtype <U1, which is no number"),
        (np.array([object()]), "x is an ndarray of dtype object"),
        (np.array(["2024-01-01"], dtype="M8[D]"), "dtype datetime64"),
        (pd.Series(["a", "b"]), "x is a Series of dtype .*no number"),
        (pd.DataFrame({"age": [1], "city": ["Rome"]}), 'columns "city" hold no numbers'),
        ([[1.0, 2.0], [3.0]], "x is a list of rows of different lengths.*Pad the rows"),
    ],
)
def test_what_is_no_array_is_explained(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        as_arrays(data, "x")
    assert isinstance(caught.value, ClarionError)
    assert len(str(caught.value)) < 400
