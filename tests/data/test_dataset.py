"""A dataset over nested tensors, and the length that all of them share."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from clarion import ClarionError, TensorDataset
from clarion.data.dataset import common_length


def test_an_item_is_the_tuple_of_the_tensors_items():
    x, y = torch.arange(6).reshape(3, 2), torch.tensor([7, 8, 9])
    dataset = TensorDataset(x, y)

    assert len(dataset) == 3
    item = dataset[1]
    assert type(item) is tuple
    assert item[0].tolist() == [2, 3]
    assert item[1].item() == 8


def test_a_single_tensor_gives_one_tuples():
    item = TensorDataset(torch.tensor([5, 6]))[1]

    assert type(item) is tuple
    assert len(item) == 1
    assert item[0].item() == 6


def test_lists_and_tuples_keep_their_type_in_each_item():
    dataset = TensorDataset([torch.arange(3), (torch.arange(3) + 10,)], {"a": np.arange(3)})

    inner, mapping = dataset[2]

    assert type(inner) is list
    assert inner[0].item() == 2
    assert type(inner[1]) is tuple
    assert inner[1][0].item() == 12
    assert mapping["a"] == 2


def test_loaders_collate_the_structure():
    dataset = TensorDataset((torch.arange(4), torch.arange(4) * 10), torch.arange(4))

    (left, right), y = next(iter(DataLoader(dataset, batch_size=3)))

    assert left.tolist() == y.tolist() == [0, 1, 2]
    assert right.tolist() == [0, 10, 20]


def test_unequal_lengths_are_an_assertion_error_with_all_lengths():
    with pytest.raises(AssertionError, match="tensor 0 has 3, tensor 1 has 2") as caught:
        TensorDataset(torch.ones(3), torch.ones(2))
    assert isinstance(caught.value, ClarionError)
    assert isinstance(caught.value, ValueError)


def test_unequal_lengths_inside_a_structure_are_found():
    with pytest.raises(AssertionError, match=r"tensor 0\[0\] has 3, tensor 0\[1\] has 2"):
        TensorDataset([torch.ones(3), torch.ones(2)])


def test_entries_of_mappings_are_named_by_their_keys():
    with pytest.raises(AssertionError, match=r'x\["mask"\] has 2'):
        common_length({"x": {"ids": np.ones(3), "mask": np.ones(2)}, "y": np.ones(3)})


def test_of_many_arrays_only_one_of_each_length_is_named():
    arrays = [np.ones(4)] * 50 + [np.ones(5)] * 50

    with pytest.raises(AssertionError, match=r"x\[0\] has 4, x\[50\] has 5\. ") as caught:
        common_length({"x": arrays})
    assert len(str(caught.value)) < 200


def test_no_tensor_at_all():
    with pytest.raises(ValueError, match="at least one tensor"):
        TensorDataset()


def test_a_scalar_has_no_examples():
    with pytest.raises(ValueError, match=r"tensor 1 is of shape \(\), which has no examples"):
        TensorDataset(torch.ones(3), torch.tensor(1.0))


def test_structures_without_arrays_have_no_examples():
    with pytest.raises(ValueError, match="There is no array in x and y"):
        common_length({"x": [], "y": []})


def test_none_is_passed_over():
    assert common_length({"x": np.ones(3), "y": None}) == 3
