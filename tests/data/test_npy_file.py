"""An array in a file, which numpy reads."""

import numpy as np
import pytest
import torch

from clarion import ClarionError
from clarion.data.joining import Joiner
from clarion.data.npy_file import NpyFile


@pytest.mark.parametrize("num_rows", [None, 2, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_numpy_reads_what_was_written(tmp_path, num_rows, dtype):
    path = tmp_path / "p.npy"
    rows = torch.arange(21).reshape(7, 3).to(dtype)

    with NpyFile(path) as file:
        joiner = Joiner(to_numpy=True, num_rows=num_rows, num_batches=1, store=file)
        for batch in rows.split(2):
            joiner.append(batch, len(batch))
        result = joiner.result()

    assert isinstance(result, np.memmap)
    assert not result.flags.writeable
    for found in (result, np.load(path)):
        assert found.dtype == rows.numpy().dtype
        assert np.array_equal(found, rows.numpy())
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.npy"]


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, np.ones(2))

    with NpyFile(path) as file:
        joiner = Joiner(to_numpy=True, store=file)
        joiner.append(torch.zeros(3, 2), 3)
        assert len(list(tmp_path.iterdir())) == 2

    assert np.array_equal(np.load(path), np.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.npy"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "p.npy"
    with NpyFile(path) as one, NpyFile(path) as other:
        joiners = [Joiner(to_numpy=True, store=file) for file in (one, other)]
        for rows, joiner in enumerate(joiners, 2):
            joiner.append(torch.full((rows, 2), float(rows)), rows)
        results = [joiner.result() for joiner in joiners]

    assert [result[0, 0] for result in results] == [2, 3]
    assert np.array_equal(np.load(path), np.full((3, 2), 3.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.npy"]


def test_bad_names_are_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ClarionError, match=r'p.csv".* ends in ".npy"'):
        NpyFile(tmp_path / "p.csv")
    with pytest.raises(ClarionError, match=r'out is an ndarray; .* for example "p.npy"'):
        NpyFile(np.zeros(3))
    with pytest.raises(ClarionError, match=r"there is no directory .*Create it first"):
        NpyFile(tmp_path / "a" / "p.npy")
