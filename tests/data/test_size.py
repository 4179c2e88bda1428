"""How many examples a batch holds: five rules, each tried on all values before the next."""

import warnings

import numpy as np
import pytest
import torch

from clarion import get_batch_size, warning_settings


@pytest.mark.parametrize(
    ("values", "size"),
    [
        # 1: a tensor or ndarray
        ((torch.ones(3, 2),), 3),
        ((np.ones(4),), 4),
        ((torch.ones(3), np.ones(4)), 3),
        # ... of any value, before the other rules
        (([torch.ones(5)], torch.ones(3)), 3),
        (({"batch_size": 7}, np.ones(4)), 4),
        # 2: a list or tuple whose first entry is one
        (([torch.ones(5), torch.ones(9)],), 5),
        (((np.ones(6),),), 6),
        (({"batch_size": 7}, [torch.ones(5)]), 5),
        # 3: a dict with an integral "batch_size"
        (({"batch_size": 7},), 7),
        (({"batch_size": np.int64(7)},), 7),
        (({"x": torch.ones(2), "batch_size": 7},), 7),
        (({"x": torch.ones(2)}, {"batch_size": 7}), 7),
        # 4: a dict whose first value is one
        (({"x": torch.ones(2), "y": torch.ones(8)},), 2),
        (({"x": torch.ones(2), "batch_size": "7"},), 2),
        (({"a": "text"}, {"x": np.ones(8)}), 8),
    ],
)
def test_rules_in_order(values, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = get_batch_size(*values)
    assert result == size
    assert type(result) is int


@pytest.mark.parametrize(
    "values",
    [
        (1,),
        ("text", None),
        (["a", "b"],),
        ({"x": 1},),
        ({"batch_size": 2.5},),
        (torch.tensor(3.0),),
        ([],),
        ((),),
        ({},),
        (),
    ],
)
def test_otherwise_one_with_a_warning(values):
    with pytest.warns(UserWarning, match="number of examples") as caught:
        assert get_batch_size(*values) == 1
    assert len(caught) == 1


def test_the_warning_can_be_silenced(monkeypatch):
    assert warning_settings["batch_size"] == "warn"
    monkeypatch.setitem(warning_settings, "batch_size", "ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_batch_size("text") == 1
