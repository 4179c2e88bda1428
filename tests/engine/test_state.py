"""What must survive a restart, in one place."""

import pytest
import torch

from clarion import CheckpointError
from clarion.engine.state import Progress, Stateful, TrainState, callback_states


class Counter:
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class Forgetful:
    """A callback without a state."""


def test_progress_comes_back():
    progress = Progress(epoch=3, batch=2, step=70, stopped=True)
    other = Progress()
    other.load_state_dict(progress.state_dict())

    assert other == progress


def test_counts_that_an_older_checkpoint_does_not_have_stay():
    progress = Progress(step=5)
    progress.load_state_dict({"epoch": 2})

    assert (progress.epoch, progress.step) == (2, 5)


def test_every_part_is_saved_and_restored_by_name():
    state = TrainState({"a": Counter(1), "b": Counter(2)}).state_dict()
    assert state == {"a": {"value": 1}, "b": {"value": 2}}

    a, b = Counter(), Counter()
    TrainState({"a": a, "b": b}).load_state_dict(state)
    assert (a.value, b.value) == (1, 2)


def test_random_states_are_restored_last():
    order = []

    class Part(Counter):
        def load_state_dict(self, state):
            order.append(state["value"])

    parts = {name: Part() for name in ("random", "a", "b")}
    TrainState(parts).load_state_dict({name: {"value": name} for name in parts})

    assert order == ["a", "b", "random"]


def test_a_part_that_the_checkpoint_lacks():
    with pytest.raises(CheckpointError, match=r'no state for "b"; it holds "a"'):
        TrainState({"a": Counter(), "b": Counter()}).load_state_dict({"a": {"value": 1}})


def test_callbacks_are_known_by_class_and_number():
    first, second = Counter(1), Counter(2)
    states = callback_states([Forgetful(), first, second])

    saved = states.state_dict()

    assert saved == {"Counter": {"value": 1}, "Counter#2": {"value": 2}}
    again = Counter(), Counter(), Counter(7)
    callback_states(again).load_state_dict(saved)
    assert [counter.value for counter in again] == [1, 2, 7]


def test_modules_and_optimizers_are_parts():
    network = torch.nn.Linear(1, 1)

    assert isinstance(network, Stateful)
    assert isinstance(torch.optim.SGD(network.parameters()), Stateful)
