"""Who holds the memory of a tensor."""

import warnings
from sys import getrefcount

import numpy as np
import pytest
import torch
from torch import nn

from clarion.data.memory import may_be_shared


def test_what_nobody_else_holds_is_not_shared():
    fresh = torch.ones(3) + 1
    assert not may_be_shared(getrefcount(fresh), fresh)
    scores = nn.Linear(3, 2)(torch.ones(4, 3)).detach()
    assert not may_be_shared(getrefcount(scores), scores)


@pytest.mark.parametrize(
    "hold",
    [
        lambda value: [value],
        lambda value: value[:1],
        lambda value: value.detach(),
        lambda value: value.numpy(),
        lambda value: memoryview(value.numpy()),
        lambda value: value.untyped_storage(),
        lambda value: (value * value.requires_grad_()).grad_fn,
    ],
)
def test_what_somebody_holds_is_shared(hold):
    value = torch.ones(3) + 1
    holder = hold(value)
    assert holder is not None
    assert may_be_shared(getrefcount(value), value)


def test_the_memory_of_others_is_shared():
    value = torch.from_numpy(np.ones(3))
    assert may_be_shared(getrefcount(value), value)
    value = torch.from_dlpack(np.ones(3))
    assert may_be_shared(getrefcount(value), value)


def test_what_a_module_in_cpp_holds_is_shared():
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.buffer = torch.zeros(3)

        def forward(self):
            return self.buffer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = torch.jit.freeze(torch.jit.script(Same().eval()))
    value = network()
    assert may_be_shared(getrefcount(value), value)


def test_a_failed_compilation_changes_nothing():
    import torch._dynamo

    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x + self.calls

    # It leaves another way of calling functions behind, which holds their arguments once more.
    compiled = torch.compile(Counting(), backend="eager", fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=1):
        compiled(torch.ones(3))
        with pytest.raises(Exception, match="fullgraph"):
            compiled(torch.ones(3))
    test_what_nobody_else_holds_is_not_shared()
