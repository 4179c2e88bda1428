"""Functions over nested structures: what they touch, what they keep, what they join."""

from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from clarion import ClarionError, numpy_to_torch, torch_apply, torch_to, torch_to_numpy
from clarion.data.nested import concatenate, from_numpy, map_structure

Pair = namedtuple("Pair", "left right")


def packed(enforce_sorted=False):
    sequences = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])]
    return pack_sequence(sequences, enforce_sorted=enforce_sorted)


# --- torch_apply ---------------------------------------------------------------------------------


def test_torch_apply_changes_tensors_and_keeps_containers():
    nested = (torch.tensor(1), [torch.tensor(2), {"a": torch.tensor(3)}], {"b": (torch.tensor(4),)})

    result = torch_apply(nested, lambda tensor: tensor.item() * 10)

    assert result == (10, [20, {"a": 30}], {"b": (40,)})
    assert type(result) is tuple
    assert type(result[1]) is list
    assert type(result[2]["b"]) is tuple


def test_torch_apply_hands_other_leaves_on_by_reference():
    leaf, array = object(), np.ones(2)

    result = torch_apply({"a": [leaf, array, None, "text", 3]}, lambda tensor: 0)

    assert result["a"][0] is leaf
    assert result["a"][1] is array
    assert result["a"][2:] == [None, "text", 3]


def test_torch_apply_makes_new_containers():
    inner = [torch.tensor(1)]
    outer = {"a": inner}

    result = torch_apply(outer, lambda tensor: tensor + 1)

    assert result is not outer
    assert result["a"] is not inner
    assert inner[0].item() == 1


@pytest.mark.parametrize(
    ("structure", "expected"), [([], []), ((), ()), ({}, {}), ([[], ()], [[], ()])]
)
def test_torch_apply_keeps_empty_containers(structure, expected):
    assert torch_apply(structure, str) == expected


def test_torch_apply_makes_a_plain_dict_of_every_mapping():
    result = torch_apply(UserDict(a=torch.tensor(1)), lambda tensor: tensor + 1)

    assert type(result) is dict
    assert result["a"].item() == 2


def test_torch_apply_keeps_named_tuples():
    result = torch_apply(Pair(torch.tensor(1), [torch.tensor(2)]), lambda tensor: tensor.item())

    assert result == Pair(1, [2])
    assert type(result) is Pair


def test_torch_apply_keeps_a_packed_sequence_and_its_batch_sizes():
    sequence = packed()
    changed = []

    def func(tensor):
        changed.append(tensor)
        return tensor * 2

    result = torch_apply(sequence, func)

    assert type(result) is PackedSequence
    assert result.batch_sizes is sequence.batch_sizes
    assert torch.equal(result.data, sequence.data * 2)
    assert not any(tensor is sequence.batch_sizes for tensor in changed)


def test_torch_apply_accepts_a_packed_sequence_without_indices():
    result = torch_apply(pack_sequence([torch.ones(2)], enforce_sorted=True), lambda t: t + 1)

    assert result.sorted_indices is None
    assert result.data.tolist() == [2.0, 2.0]


# --- torch_to_numpy, numpy_to_torch, torch_to ----------------------------------------------------


def test_torch_to_numpy_converts_every_tensor():
    result = torch_to_numpy([torch.tensor([1, 2]), {"a": torch.tensor(3.0)}, "text"])

    assert isinstance(result[0], np.ndarray)
    assert result[0].dtype == np.int64
    assert result[1]["a"].shape == ()
    assert result[2] == "text"


def test_torch_to_numpy_detaches():
    weight = torch.ones(2, requires_grad=True)

    assert (torch_to_numpy(weight * 3) == 3).all()


def test_torch_to_numpy_shares_memory_unless_copy():
    tensor = torch.zeros(3)
    shared, copied = torch_to_numpy(tensor), torch_to_numpy(tensor, copy=True)
    tensor += 1

    assert shared.tolist() == [1.0, 1.0, 1.0]
    assert copied.tolist() == [0.0, 0.0, 0.0]


def test_torch_to_numpy_widens_what_numpy_does_not_have():
    result = torch_to_numpy(torch.tensor([1.5, 2.5], dtype=torch.bfloat16))

    assert result.dtype == np.float32
    assert result.tolist() == [1.5, 2.5]


def test_torch_to_numpy_makes_dense_what_is_sparse():
    dense = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    assert torch_to_numpy(dense.to_sparse(), copy=True).tolist() == dense.tolist()


def test_numpy_to_torch_shares_memory_and_keeps_the_dtype():
    array = np.zeros(3, dtype=np.float64)

    result = numpy_to_torch([array, {"a": np.array([1], dtype=np.uint8)}, "text"])
    array += 1

    assert result[0].dtype == torch.float64
    assert result[0].tolist() == [1.0, 1.0, 1.0]
    assert result[1]["a"].dtype == torch.uint8
    assert result[2] == "text"


def test_numpy_to_torch_leaves_tensors_and_packed_sequences():
    tensor, sequence = torch.ones(2), packed()

    assert numpy_to_torch(tensor) is tensor
    assert numpy_to_torch(sequence) is sequence


def test_torch_to_hands_its_arguments_to_every_tensor():
    result = torch_to({"a": (torch.ones(2), 3)}, torch.float64)

    assert result["a"][0].dtype == torch.float64
    assert result["a"][1] == 3
    assert torch_to(torch.ones(1), device="meta").device.type == "meta"


# --- from_numpy ----------------------------------------------------------------------------------


def test_read_only_arrays_give_no_warning():
    array = np.arange(3)
    array.flags.writeable = False

    assert from_numpy(array).tolist() == [0, 1, 2]


def test_arrays_that_run_backwards_are_copied():
    assert from_numpy(np.arange(6).reshape(2, 3)[:, ::-1]).tolist() == [[2, 1, 0], [5, 4, 3]]


def test_arrays_of_another_byte_order_are_converted():
    assert from_numpy(np.array([1.5, -2.0], dtype=">f4")).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "b"], dtype=object),
        np.array(["a", "b"]),
        np.array(["2024-01-01"], dtype="M8"),
    ],
)
def test_arrays_without_numbers_are_explained(array):
    with pytest.raises(TypeError, match=r"dtype .*, which is no number") as caught:
        from_numpy(array)
    assert isinstance(caught.value, ClarionError)


# --- map_structure, concatenate ------------------------------------------------------------------


def test_map_structure_applies_to_every_leaf():
    assert map_structure([1, (2, {"a": 3})], lambda leaf: leaf + 1) == [2, (3, {"a": 4})]


def test_concatenate_joins_arrays_on_the_first_dimension():
    result = concatenate([np.array([[1], [2]]), np.array([[3]])])

    assert result.tolist() == [[1], [2], [3]]


def test_concatenate_joins_tensors():
    result = concatenate([torch.tensor([1, 2]), torch.tensor([3])])

    assert torch.equal(result, torch.tensor([1, 2, 3]))


def test_concatenate_keeps_the_structure():
    batches = [
        (np.array([1]), [np.array([2]), {"a": np.array([3])}]),
        (np.array([4]), [np.array([5]), {"a": np.array([6])}]),
    ]

    result = concatenate(batches)

    assert type(result) is tuple
    assert type(result[1]) is list
    assert result[0].tolist() == [1, 4]
    assert result[1][0].tolist() == [2, 5]
    assert result[1][1]["a"].tolist() == [3, 6]


def test_concatenate_keeps_named_tuples():
    result = concatenate([Pair(np.array([1]), np.array([2])), Pair(np.array([3]), np.array([4]))])

    assert type(result) is Pair
    assert result.left.tolist() == [1, 3]


def test_concatenate_takes_the_keys_of_the_first_batch():
    result = concatenate([{"a": np.array([1])}, {"a": np.array([2]), "b": np.array([3])}])

    assert list(result) == ["a"]


@pytest.mark.parametrize(
    "leaves", [[1, 2, 3], ["a", "b"], [None, None], [np.float64(1.0), np.float64(2.0)]]
)
def test_concatenate_lists_what_cannot_be_joined(leaves):
    assert concatenate(leaves) == leaves
    nested = concatenate([(leaf,) for leaf in leaves])
    assert nested == (leaves,)
    assert type(nested[0]) is list


def test_concatenate_lists_arrays_without_dimensions():
    result = concatenate([(torch.tensor(1.0),), (torch.tensor(2.0),)])

    assert [value.item() for value in result[0]] == [1.0, 2.0]
    assert type(result[0]) is list


@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_concatenate_lists_arrays_whose_other_dimensions_differ(make):
    batches = [make((2, 3)), make((2, 5))]

    result = concatenate(batches)

    assert type(result) is list
    assert [part.shape[1] for part in result] == [3, 5]


def test_concatenate_lists_structures_of_different_lengths():
    batches = [[np.ones(2)], [np.ones(2), np.ones(1)]]

    assert concatenate(batches) == batches
