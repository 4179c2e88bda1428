"""Where two states differ."""

import math

import torch

from clarion.checkpoints.comparison import state_differences


def test_equal_states_differ_nowhere():
    state = {"a": torch.tensor([1.0, math.nan]), "b": [1, (2, None)], "c": {"d": math.nan, 1: "x"}}
    again = {"a": torch.tensor([1.0, math.nan]), "b": [1, (2, None)], "c": {"d": math.nan, 1: "x"}}
    assert state_differences(state, again) == []


def test_each_place_is_told_with_what_differs():
    then = {
        "weight": torch.tensor([1, 2]),
        "kind": torch.zeros(2),
        "shape": torch.zeros(2, 1),
        "list": [1, 2],
        "length": [1],
        "missing": 3,
        "tensor": torch.zeros(1),
        "nan": math.nan,
        "long": "x" * 100,
    }
    now = {
        "weight": torch.tensor([1, 5]),
        "kind": torch.zeros(2, dtype=torch.float64),
        "shape": torch.zeros(1, 2),
        "list": [1, 4],
        "length": [1, 2],
        "tensor": None,
        "nan": 1.0,
        "long": "y" * 100,
        "more": 1,
    }
    assert state_differences(then, now) == [
        "weight: differs by up to 3",
        "kind: (2,) float32 then, (2,) float64 now",
        "shape: (2, 1) float32 then, (1, 2) float32 now",
        "list.1: 2 then, 4 now",
        "length: [1] then, [1, 2] now",
        "missing: 3 then, None now",
        "tensor: a tensor of shape (1,) then, None now",
        "nan: nan then, 1.0 now",
        f"long: '{'x' * 56}... then, '{'y' * 56}... now",
        "more: None then, 1 now",
    ]


def test_a_directory_may_have_had_another_name():
    now = {"file": "best: /tmp/b/epoch-1"}
    for text in ("best: /runs/a/epoch-1", "best: a/epoch-1", "best: /tmp/b/epoch-1"):
        assert state_differences({"file": text}, now, moved_to="/tmp/b") == []
    for text in ("best: /runs/a/epoch-2", "/runs/a/epoch-1", "best/epoch-1", None):
        assert len(state_differences({"file": text}, now, moved_to="/tmp/b")) == 1
    assert len(state_differences({"file": "best: /runs/a/epoch-1"}, now)) == 1
