import numpy as np
import pytest
import torch

from clarion.metrics.rows import ArrayRows, TensorRows


def test_array_rows_keep_order_and_grow_in_place():
    rows = ArrayRows()
    assert len(rows.all()) == 0
    for number in range(300):
        rows.append(np.full((number % 4, 2), number, dtype=np.float32))
    expected = np.repeat(np.arange(300), np.arange(300) % 4)
    assert len(rows) == len(expected)
    np.testing.assert_array_equal(rows.all(), np.stack([expected, expected], 1))
    assert rows.all().dtype == np.float32
    assert rows._held.nbytes <= 1.3 * rows.all().nbytes


def test_array_rows_take_the_wider_dtype():
    rows = ArrayRows()
    rows.append(np.array([1], dtype=np.int64))
    rows.append(np.array([0.5]))
    assert rows.all().tolist() == [1.0, 0.5]


def test_array_rows_do_not_share_memory_with_the_batch():
    rows, batch = ArrayRows(), np.zeros(2)
    rows.append(batch)
    batch[:] = 1
    assert rows.all().tolist() == [0.0, 0.0]


def test_tensor_rows_stay_few_pieces_in_order():
    rows = TensorRows()
    assert len(rows.all()) == 0
    for number in range(1000):
        batch = torch.tensor([float(number)], requires_grad=True)
        rows.append(batch)
        assert len(rows._pieces) <= 11
    assert len(rows) == 1000
    assert rows.all().tolist() == list(range(1000))
    assert not rows.all().requires_grad


def test_tensor_rows_of_another_shape():
    rows = TensorRows()
    rows.append(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"shape \(4,\), those of the batches before it \(3,\)"):
        rows.append(torch.zeros(2, 4))
