import json
import math
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from clarion.checkpoints.structure import decode, encode
from clarion.errors import CheckpointError


def round_trip(value):
    plain, tensors = encode(value)
    return decode(json.loads(json.dumps(plain, allow_nan=False)), tensors)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        2**80,
        -0.0,
        0.1 + 0.2,
        5e-324,
        "",
        'a "quoted" \n line',
        [],
        (),
        {},
        [1, [2.5, (None, "x")], ()],
        (1, (2,), [3]),
        {"a": {"b": [1, {"c": (True,)}]}},
        {0: {"step": 1}, 1: {}},
        {None: 1, True: 2, 2.5: 3, (1, "a"): 4},
        {"$tensor": "not a tensor"},
        {"$tuple": [1]},
        {"$dict": 3, "b": 4},
        OrderedDict([("b", 1), ("a", 2)]),
        Counter({3: 2, 5: 1}),
        {"milestones": Counter()},
    ],
)
def test_plain_values_come_back_with_their_types(value):
    back = round_trip(value)
    assert back == value
    assert repr(back) == repr(value)  # bool is not int, tuple is not list, -0.0 is not 0.0


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinities_come_back(value):
    assert round_trip([value]) == [value]


def test_nan_comes_back():
    assert math.isnan(round_trip({"best": math.nan})["best"])


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.complex128,
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_tensors_come_back_bit_for_bit(dtype, shape):
    torch.manual_seed(0)
    value = (torch.rand(shape) * 3).to(dtype)
    back = round_trip({"t": value})["t"]
    assert back.dtype == dtype
    assert back.shape == value.shape
    assert torch.equal(back, value)


def test_a_transposed_view_comes_back_as_it_reads():
    value = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(round_trip([value])[0], value)


def test_a_parameter_comes_back_as_a_tensor_without_gradient():
    value = torch.nn.Parameter(torch.ones(2))
    back = round_trip(value)
    assert type(back) is torch.Tensor
    assert not back.requires_grad


def test_tensors_are_named_after_their_place():
    _, tensors = encode({"0.weight": torch.zeros(1), "state": {0: {"exp_avg": torch.zeros(1)}}})
    assert list(tensors) == ["0.weight", "state.0.exp_avg"]


def test_places_of_the_same_name_do_not_hide_each_other():
    value = {"a": {"b": torch.tensor(1)}, "a.b": torch.tensor(2)}
    back = round_trip(value)
    assert back["a"]["b"] == 1
    assert back["a.b"] == 2


def test_numpy_arrays_come_back_as_arrays():
    value = np.arange(4, dtype=np.uint32)
    back = round_trip({"keys": value})["keys"]
    assert back.dtype == np.uint32
    assert (back == value).all()


def test_numpy_numbers_come_back_as_pythons():
    back = round_trip([np.float64(0.1), np.int64(3), np.bool_(True), np.float32(0.5)])
    assert back == [0.1, 3, True, 0.5]
    assert [type(item) for item in back] == [float, int, bool, float]


def test_the_state_of_torch_optimizers_and_schedulers_comes_back():
    parameters = [torch.nn.Parameter(torch.ones(2, 2))]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 4])
    parameters[0].grad = torch.ones(2, 2)
    optimizer.step()
    back = round_trip({"optimizer": optimizer.state_dict(), "schedule": scheduler.state_dict()})
    assert back["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(back["optimizer"]["state"][0][name], value)
    assert back["schedule"] == scheduler.state_dict()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2, 3}]}, r"callbacks\['a'\]\[1\] is a builtins.set, which a checkpoint cannot"),
        ({"f": print}, r"callbacks\['f'\] is a builtins.builtin_function_or_method"),
        ({"d": torch.device("cpu")}, r"callbacks\['d'\] is a torch.device"),
        ({b"k": 1}, "a key of callbacks is a builtins.bytes"),
        ({"o": np.array([None])}, r"callbacks\['o'\] is a numpy array of object"),
        ({"s": torch.eye(2).to_sparse()}, 'tensor "s" is torch.sparse_coo.*to_dense'),
    ],
)
def test_what_cannot_be_kept_is_named_with_its_place(value, message):
    with pytest.raises(CheckpointError, match=message):
        encode(value, "callbacks")
