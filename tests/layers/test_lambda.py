import pytest
import torch
from torch import nn

from clarion import ClarionError, Lambda


def test_calls_the_function_with_all_inputs():
    assert torch.equal(Lambda(torch.add)(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0))


def test_fits_into_a_sequential_and_says_its_name():
    def halve(x):
        return x / 2

    network = nn.Sequential(nn.Identity(), Lambda(halve))
    assert torch.equal(network(torch.ones(3)), torch.full((3,), 0.5))
    assert "Lambda(halve)" in repr(network)


def test_refuses_what_is_no_function():
    with pytest.raises(ClarionError, match="takes a function; got 3, a int"):
        Lambda(3)
