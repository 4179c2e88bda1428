"""A training of many steps keeps nothing of them."""

import sys

import pytest
import torch
from torch import nn

from clarion import Model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def train(watched, at, optimizer="sgd"):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(4, 4, generator=generator) for _ in range(100)]
    loader = watched([(x, (x.sum(1) > 0).long()) for x in inputs], at)
    model = Model(nn.Linear(4, 2), optimizer, "cross_entropy", batch_metrics=["accuracy"])
    model.fit_generator(loader, epochs=1, verbose=False)
    return loader


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"], ids=["direct step", "ordinary step"])
def test_steps_leave_no_objects(optimizer, watched):
    found = train(watched, (320, 640, 2560), optimizer)
    # A block of batches that is under way is no growth: the first difference shows how much it is.
    assert found.objects[2] - found.objects[1] <= abs(found.objects[1] - found.objects[0]) + 50
    assert found.blocks[2] - found.blocks[1] <= abs(found.blocks[1] - found.blocks[0]) + 200


@pytest.mark.slow
def test_two_hundred_thousand_steps_keep_the_memory_as_it_is(watched):
    found = train(watched, (2_048, 20_480, 200_064))  # each at the end of a block of batches
    assert found.objects[1] - found.objects[0] <= 200
    assert found.objects[2] - found.objects[0] <= 200
    assert found.bytes[1] - found.bytes[0] < 2**20
    assert found.bytes[2] - found.bytes[0] < 5 * 2**20
