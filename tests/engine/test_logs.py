"""Batch logs: lazy, but like a dict to whoever reads them."""

import json
from unittest.mock import call

import pytest
import torch

from clarion.engine.logs import Logs, to_floats


def make(**options):
    measured = [
        (("loss",), ("loss",), torch.tensor(1.5)),
        (("a", "b"), ("a", "b"), torch.tensor([2.0, 3.0])),
    ]
    return Logs({"batch": 1, "size": 4}, measured, **options)


AS_DICT = {"batch": 1, "size": 4, "loss": 1.5, "a": 2.0, "b": 3.0}


class Spy(torch.Tensor):
    """A tensor that counts how often it is read on the host."""

    reads = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in {"tolist", "item", "__float__"}:
            Spy.reads += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def test_it_is_equal_to_a_dict_from_both_sides():
    assert make() == AS_DICT
    assert dict.__eq__(AS_DICT, make()) is NotImplemented
    assert make() == make()
    assert call(1, AS_DICT) == call(1, make())
    assert make() != {**AS_DICT, "loss": 2.0}
    assert make() != 3


def test_values_are_floats_and_keys_are_in_order():
    logs = make(prefix="val_")

    assert list(logs) == ["batch", "size", "val_loss", "val_a", "val_b"]
    assert type(logs["val_loss"]) is float
    assert type(logs["size"]) is int
    assert len(logs) == 5


def test_it_can_be_read_as_any_mapping():
    logs = make()

    assert {**logs} == AS_DICT
    assert dict(logs) == AS_DICT
    assert list(logs.items()) == list(AS_DICT.items())
    assert logs.get("loss") == 1.5
    assert logs.get("missing", 7) == 7
    assert "{loss:.2f}".format_map(logs) == "1.50"
    assert json.loads(json.dumps(dict(logs))) == AS_DICT
    assert repr(logs) == repr(AS_DICT)


def test_it_can_be_copied_and_merged_as_a_dict():
    copied = make().copy()

    assert type(copied) is dict
    assert copied == AS_DICT
    assert make() | {"x": 1} == {**AS_DICT, "x": 1}
    assert {"x": 1} | make() == {"x": 1, **AS_DICT}


def test_it_can_be_changed():
    logs = make()
    logs["new"] = 1
    del logs["a"]
    logs["loss"] = 9

    assert logs == {"batch": 1, "size": 4, "loss": 9, "b": 3.0, "new": 1}


def test_a_missing_key():
    with pytest.raises(KeyError, match="missing"):
        make()["missing"]


def test_it_is_no_key():
    with pytest.raises(TypeError, match="unhashable"):
        hash(make())


def test_asking_for_names_reads_nothing():
    Spy.reads = 0
    value = torch.tensor(1.5).as_subclass(Spy)
    logs = Logs({"batch": 1}, [(("loss",), ("loss",), value)])

    assert "loss" in logs
    assert len(list(logs)) == 2
    assert Spy.reads == 0
    assert logs["loss"] == 1.5
    assert Spy.reads > 0


def test_without_measured_values():
    assert Logs({"batch": 2}) == {"batch": 2}


def test_floats_of_all_kinds():
    named = {
        "a": torch.tensor(1.0),
        "b": 2,
        "c": torch.tensor(3, dtype=torch.int64),
        "d": torch.tensor(0.1, dtype=torch.float64),
        "e": torch.tensor([5.0]),
        "f": torch.tensor(True),
        "g": torch.tensor(6.0, requires_grad=True),
    }

    floats = to_floats(named)

    assert floats == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.1, "e": 5.0, "f": 1.0, "g": 6.0}
    assert list(floats) == list(named)
    assert {type(value) for value in floats.values()} == {float}
