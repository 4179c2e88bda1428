"""A training of many steps keeps nothing of them."""

import json
import subprocess
import sys

import long_run
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def train(optimizer, *at):
    """Return what a training keeps in a process of its own, where nobody else makes objects."""
    command = [sys.executable, long_run.__file__, optimizer, *map(str, at)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"], ids=["direct step", "ordinary step"])
def test_steps_leave_no_objects(optimizer):
    found = train(optimizer, 320, 640, 2560)
    objects, blocks = found["objects"], found["blocks"]
    # A block of batches that is under way is no growth: the first difference shows how much it is.
    assert objects[2] - objects[1] <= abs(objects[1] - objects[0]) + 50
    assert blocks[2] - blocks[1] <= abs(blocks[1] - blocks[0]) + 200


@pytest.mark.slow
def test_two_hundred_thousand_steps_keep_the_memory_as_it_is():
    found = train("sgd", 2_048, 20_480, 200_064)  # each at the end of a block of batches
    objects, resident = found["objects"], found["bytes"]
    assert objects[1] - objects[0] <= 200
    assert objects[2] - objects[0] <= 200
    assert resident[1] - resident[0] < 2**20
    assert resident[2] - resident[0] < 5 * 2**20
