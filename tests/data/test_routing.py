"""The way from what a loader yields to a batch."""

import warnings
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from clarion import Batch, ClarionError
from clarion.data.routing import Router


class Linear(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=dtype)

    def forward(self, x):
        return self.layer(x)


class Encoder(Linear):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return self.layer(input_ids)


class TakesAnything(Linear):
    def forward(self, input_ids, **options):
        return self.layer(input_ids)


class HandsOn(Linear):
    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


X, Y = torch.ones(3, 2), torch.tensor([0, 1, 1])


def route(raw, network=None, supervised=True, **options):
    network = Linear() if network is None else network
    return Router(network, **options).route(raw, supervised=supervised, where="Batch 1")


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [(X, Y), [X, Y]])
def test_a_pair_is_input_and_target(pair):
    batch = route(pair)

    assert batch.args == (X,)
    assert batch.kwargs == {}
    assert batch.target is Y
    assert batch.size == 3


@pytest.mark.parametrize("x", [(X, Y), [X, Y]])
def test_a_tuple_or_list_is_several_arguments(x):
    batch = route((x, Y))

    assert batch.args == (X, Y)
    assert batch.inputs == (X, Y)


def test_a_dict_whose_keys_are_parameters_is_keywords():
    batch = route(({"x": X}, Y))

    assert batch.args == ()
    assert batch.kwargs == {"x": X}
    assert batch.inputs == {"x": X}


@pytest.mark.parametrize("x", [{"image": X}, {"x": X, "more": X}, {}, {1: X}])
def test_any_other_dict_is_one_argument(x):
    batch = route((x, {"batch_size": 3}))

    assert batch.args == (x,)
    assert batch.kwargs == {}


def test_a_forward_that_hands_everything_on_gets_dicts_as_one_argument():
    assert route(({"a": X}, Y), HandsOn()).args == ({"a": X},)


def test_a_compiled_network_is_asked_by_the_names_of_its_own_forward():
    assert route(({"x": X}, Y), torch.compile(Linear(), backend="eager")).kwargs == {"x": X}


def test_a_forward_that_takes_any_keyword_gets_all():
    assert route(({"input_ids": X, "more": X}, Y), TakesAnything()).kwargs == {
        "input_ids": X,
        "more": X,
    }


def test_a_packed_sequence_is_one_argument():
    sequence = pack_sequence([torch.ones(2, 2)])

    batch = route((sequence, Y))
    assert batch.args == (sequence,)
    assert batch.size == 3


def test_the_target_may_be_any_structure():
    target = {"a": Y, "b": [Y, (Y,)]}

    assert route((X, target)).target is target


# --- mappings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["labels", "label"])
@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_mapping_is_keywords_and_its_labels_are_the_target(kind, key):
    raw = kind({"input_ids": X, "attention_mask": Y, key: Y})
    batch = route(raw, Encoder())

    assert batch.args == ()
    assert set(batch.kwargs) == {"input_ids", "attention_mask"}
    assert batch.target is Y


def test_a_network_that_computes_its_loss_gets_the_labels_too():
    raw = {"input_ids": X, "labels": Y}

    batch = route(raw, Encoder(), computes_loss=True)
    assert batch.kwargs["labels"] is Y
    assert batch.target is Y


class AnythingWithLabels(Linear):
    def forward(self, input_ids, labels=None, **options):
        return self.layer(input_ids)


@pytest.mark.parametrize("network", [Encoder, AnythingWithLabels])
@pytest.mark.parametrize(
    "raw", [{"input_ids": X, "label": Y}, ({"input_ids": X}, Y), (X, Y), (X, Y, torch.ones(3))]
)
def test_a_network_that_computes_its_loss_gets_the_target_under_its_own_name(network, raw):
    batch = route(raw, network(), computes_loss=True)

    assert set(batch.kwargs) - {"input_ids"} == {"labels"}
    assert batch.kwargs["labels"] is batch.target is Y
    assert "labels" not in route(raw, network()).kwargs


def test_a_network_that_computes_its_loss_keeps_the_target_that_it_has():
    assert route(([X, X, X], Y), Encoder(), computes_loss=True).kwargs == {}
    raw = {"input_ids": X, "labels": X}
    assert route((raw, Y), Encoder(), computes_loss=True).kwargs["labels"] is X
    assert route((X, Y), computes_loss=True).kwargs == {}  # its forward names no target


def test_small_integers_become_indices_for_the_network_too():
    router = Router(Encoder(), computes_loss=True)
    batch = router.prepare(router.route((X.int(), Y.int())), None)
    assert batch.kwargs["labels"].dtype is torch.int64
    assert batch.args[0].dtype is torch.int32


def test_a_network_that_computes_its_loss_may_go_without_labels():
    batch = route({"input_ids": X}, Encoder(), computes_loss=True)
    assert batch.target is None
    assert route(X, Encoder(), computes_loss=True).args == (X,)


def test_the_target_keys_can_be_chosen():
    batch = route({"x": X, "digit": Y}, target_keys=("digit",))

    assert batch.kwargs == {"x": X}
    assert batch.target is Y


def test_the_first_target_key_counts():
    raw = {"input_ids": X, "labels": Y, "label": X}

    with pytest.warns(UserWarning, match='hold "label", which Encoder.forward does not take'):
        assert route(raw, Encoder()).target is Y


def test_what_forward_does_not_take_is_reported_once_by_name():
    router = Router(Encoder())
    raw = {"input_ids": X, "labels": Y, "idx": Y, "text": ["a"] * 3}

    with pytest.warns(UserWarning, match='"idx", "text", which Encoder.forward does not') as caught:
        batch = router.route(raw)
    assert len(caught) == 1
    assert set(batch.kwargs) == {"input_ids"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        router.route(raw)


# --- predicting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "args"),
    [(X, (X,)), ((X,), (X,)), ([X], (X,)), ((X, Y), (X, Y)), (([X, Y],), (X, Y))],
)
def test_a_bare_input(raw, args):
    batch = route(raw, supervised=False)

    assert batch.args == args
    assert batch.target is None
    assert batch.size == 3


def test_a_bare_mapping():
    assert route({"x": X}, supervised=False).kwargs == {"x": X}
    assert route({"image": X}, supervised=False).args == ({"image": X},)


def test_labels_are_no_input_when_predicting():
    batch = route({"input_ids": X, "labels": Y}, Encoder(), supervised=False)

    assert batch.kwargs == {"input_ids": X}


# --- unpack --------------------------------------------------------------------------------------


def test_unpack_goes_before_all_rules():
    batch = route((X, Y, X), unpack=lambda raw: Batch((raw[0], raw[2]), target=raw[1]))

    assert batch.args == (X, X)
    assert batch.target is Y
    assert batch.size == 3


def test_unpack_may_say_the_size():
    assert route(X, unpack=lambda raw: Batch((raw,), size=7)).size == 7


def test_unpack_that_returns_something_else():
    with pytest.raises(TypeError, match="unpack returned a tuple; it must return a Batch"):
        route((X, Y), unpack=lambda raw: raw)


def test_an_error_in_unpack_keeps_its_type_and_says_what_it_got():
    with pytest.raises(KeyError) as caught:
        route({"image": X, "digit": Y}, unpack=lambda raw: raw["pixels"])
    assert caught.value.__notes__ == [
        'This happened in unpack. Batch 1 is a dict with keys "image", "digit".'
    ]


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (X, r"Batch 1 is one Tensor of shape \(3, 2\), without a target. Pass y beside x"),
        (np.ones((3, 2)), r"Batch 1 is one ndarray of shape \(3, 2\), without a target"),
        ((X, Y, Y, Y), r"Batch 1 is a tuple of 4; clarion reads pairs \(x, y\).*Pass unpack"),
        ([X], r"Batch 1 is a list of 1; clarion reads pairs"),
        ("text", r"Batch 1 is a str; clarion reads pairs"),
        (
            {"image": X, "digit": Y},
            r'dict with keys "image", "digit"; clarion reads .*Linear.forward \(x\)',
        ),
        (
            {"x": X, "digit": Y},
            r'none of them is the target: .*"labels" or "label".*target_keys=\("digit",\)',
        ),
        ({"xx": X, "labels": Y}, r"none of which is a parameter of Linear.forward \(x\)"),
    ],
)
def test_batches_that_do_not_fit(raw, message):
    with pytest.raises(ValueError, match=message) as caught:
        route(raw)
    assert isinstance(caught.value, ClarionError)
    assert len(str(caught.value)) < 400


def test_a_batch_of_three_carries_the_weights_of_its_examples():
    batch = route((X, Y, torch.ones(3)))
    assert batch.target is Y
    assert batch.weight.tolist() == [1.0, 1.0, 1.0]


def test_a_missing_key_is_offered_the_nearest_parameter():
    with pytest.raises(ValueError, match=r'did you mean "input_ids"\?'):
        route({"inputs_id": X, "labels": Y}, Encoder())


# --- prepare -------------------------------------------------------------------------------------


def prepared(x, y=Y, network=None, device=None):
    router = Router(network or Linear())
    return router.prepare(router.route((x, y)), device)


def test_ndarrays_become_tensors():
    batch = prepared([np.ones((3, 2), np.float32), {"a": np.ones(3)}], np.array([0, 1, 1]))

    assert batch.args[0].dtype == torch.float32
    assert isinstance(batch.args[1]["a"], torch.Tensor)
    assert batch.target.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_float64_becomes_the_networks_dtype(dtype):
    batch = prepared(X.double(), Y.double(), Linear(dtype))

    assert batch.args[0].dtype == dtype


def test_floats_are_widened_for_a_network_of_float64():
    batch = prepared(X, Y, Linear(torch.float64))

    assert batch.args[0].dtype == torch.float64
    assert batch.target.dtype == torch.int64


def test_targets_are_not_narrowed_to_the_dtype_of_a_reduced_network():
    target = torch.tensor([1.0, 2.0, 1.0 + 2**-20], dtype=torch.float64)

    batch = prepared(X.double(), target, Linear(torch.bfloat16))

    assert batch.target.dtype == torch.float32
    assert batch.target[2] != 1.0


def test_other_floats_and_integers_of_inputs_stay():
    for dtype in (torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool):
        assert prepared(X.to(dtype)).args[0].dtype == dtype


@pytest.mark.parametrize(
    "dtype",
    ["int8", "int16", "int32", "uint8", "uint16", "uint32"],
)
def test_targets_of_other_integers_become_int64(dtype):
    batch = prepared(X, {"a": np.array([0, 1, 2], dtype=dtype)})

    assert batch.target["a"].dtype == torch.int64
    assert batch.target["a"].tolist() == [0, 1, 2]


def test_boolean_targets_stay():
    assert prepared(X, Y > 0).target.dtype == torch.bool


def test_a_network_without_weights_takes_everything_as_it_is():
    batch = prepared(X.double(), Y.double(), nn.Identity())

    assert batch.args[0].dtype == batch.target.dtype == torch.float64


def test_everything_goes_to_the_device():
    batch = prepared([X, {"a": (X, "text")}], Y, device=torch.device("meta"))

    assert batch.args[0].device.type == "meta"
    assert batch.args[1]["a"][0].device.type == "meta"
    assert batch.args[1]["a"][1] == "text"
    assert batch.target.device.type == "meta"


def test_keywords_go_to_the_device_too():
    router = Router(Encoder())
    batch = router.prepare(router.route({"input_ids": X, "labels": Y}), torch.device("meta"))

    assert batch.kwargs["input_ids"].device.type == "meta"


def test_without_a_device_tensors_are_not_touched():
    batch = prepared(X)

    assert batch.args[0] is X
    assert batch.target is Y


def test_a_packed_sequence_keeps_its_batch_sizes_on_the_cpu():
    sequence = pack_sequence([torch.ones(2, 2), torch.ones(1, 2)])

    (moved,) = prepared(sequence, device=torch.device("meta")).args

    assert moved.data.device.type == "meta"
    assert moved.batch_sizes is sequence.batch_sizes


def test_pairs_that_need_nothing_are_batches_at_once():
    router = Router(nn.Linear(2, 1))
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    assert router.at_once((x, y), None) is None
    batch = router.prepare(router.route((x, y)), None)
    router.learn((x, y), batch, None)
    found = router.at_once((x, y), None)
    assert found == batch
    assert found.args[0] is x
    assert found.target is y
    for other in [
        (x.double(), y),
        (x, y.int()),
        (x.numpy(), y),
        (x, y, y),
        {"x": x, "labels": y},
        (torch.zeros(()), y),
        ((x, x), y),
        x,
    ]:
        assert router.at_once(other, None) is None
    assert router.at_once((x, y), torch.device("meta")) is None
    router._network.double()
    assert router.at_once((x, y), None) is None


def test_what_was_changed_on_its_way_is_not_taken_at_once():
    x, y = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int32)
    for raw in [(x, y.long()), (x.float(), y), (np.zeros((3, 2)), y)]:
        router = Router(nn.Linear(2, 1))
        router.learn(raw, router.prepare(router.route(raw), None), None)
        assert router.at_once(raw, None) is None
    router = Router(nn.Linear(2, 1), unpack=lambda raw: Batch((raw[0],), {}, raw[1]))
    pair = (x.float(), y.long())
    router.learn(pair, router.prepare(router.route(pair), None), None)
    assert router.at_once(pair, None) is None


def test_inputs_alone_are_batches_at_once_when_predicting():
    router = Router(nn.Linear(2, 1))
    x = torch.zeros(3, 2)
    batch = router.prepare(router.route(x, supervised=False), None)
    router.learn(x, batch, None, supervised=False)
    assert router.at_once(x, None, supervised=False) == batch
    assert router.at_once(x, None) is None
    for other in (x.double(), x.numpy(), (x, x), torch.zeros(())):
        assert router.at_once(other, None, supervised=False) is None


def test_read_only_arrays_are_copied_for_networks_that_work_in_place():
    x = np.ones((2, 2), "float32")
    x.flags.writeable = False  # a file mapped into memory would end the process
    router = Router(Linear())
    batch = router.prepare(router.route((x, x)), None)
    batch.args[0].zero_()
    batch.target.zero_()
    assert (x == 1).all()
