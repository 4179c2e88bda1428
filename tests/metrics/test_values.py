import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.errors import InvalidArgumentError
from clarion.metrics.values import check_count, values_by_name, values_in_order


@pytest.mark.parametrize(
    "value",
    [
        {"b": 2, "a": 1.0},
        (1, 2),
        [torch.tensor(1), np.float32(2)],
        np.array([1, 2]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([[1.0], [2.0]]),
        (number for number in (1, 2)),
    ],
)
def test_values_by_name(value):
    values = values_by_name(value, ["a", "b"])
    assert {name: float(one) for name, one in values.items()} == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("value", [3, 3.0, np.array(3), torch.tensor(3), [3], {"x": 3}, True + 2])
def test_one_value(value):
    assert {k: float(v) for k, v in values_by_name(value, ["a"]).items()} == {"a": 3.0}


def test_a_mapping_is_read_by_its_own_keys_when_names_differ():
    value = {"b": 2.0, "a": 1.0}
    assert values_by_name(value, ["a1", "b1"], ["a", "b"]) == {"a1": 1.0, "b1": 2.0}
    assert values_by_name(value, ["b", "a"], ["x", "y"]) == {"b": 2.0, "a": 1.0}
    assert values_by_name(value, ["p", "q"]) == {"p": 2.0, "q": 1.0}


def test_a_name_is_not_given_to_the_value_of_another_key():
    with pytest.raises(InvalidArgumentError, match=r'"p", "x" returned .* keys "a", "p"'):
        values_by_name({"a": 1.0, "p": 2.0}, ["p", "x"])
    assert values_by_name({"a": 1.0, "p": 2.0}, ["x", "p"]) == {"x": 1.0, "p": 2.0}


def test_a_mapping_may_hold_more_than_is_named():
    assert values_in_order({"a": 1.0, "b": 2.0, "c": 3.0}, ["c", "a"]) == [3.0, 1.0]


def test_tensors_are_not_read():
    with FakeTensorMode():
        for value in (torch.zeros(2), {"a": torch.zeros(()), "b": torch.zeros(1)}):
            values = values_by_name(value, ["a", "b"])
            assert [one.shape for one in values.values()] == [(), ()]


def test_counts_that_differ():
    check_count(2, ["a", "b"])
    with pytest.raises(ValueError, match='metric "a", "b" returned 3 values for 2 names'):
        values_by_name(torch.zeros(3), ["a", "b"])
    with pytest.raises(ValueError, match='metric "a" returned 0 values for 1 name'):
        values_by_name([], ["a"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["x"], 'metric "a" returned str'),
        (["x"][0], 'metric "a" returned str'),
        (object(), "where one number per name was expected"),
        ([torch.zeros(2)], r"a Tensor of shape \(2,\)"),
    ],
)
def test_values_that_are_no_numbers(value, message):
    with pytest.raises(TypeError, match=message):
        values_by_name(value, ["a"])
