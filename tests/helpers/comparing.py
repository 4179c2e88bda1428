"""Nested results compared to the last bit."""

import torch


def assert_equal(first, second, name=""):
    """Compare nested structures exactly: types, order of keys, every element."""
    assert type(first) is type(second), name
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), name
    elif isinstance(first, dict):
        assert list(first) == list(second), name
        for key in first:
            assert_equal(first[key], second[key], f"{name}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), name
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{name}[{i}]")
    else:
        assert first == second, name
