import pickle
import random

import numpy as np
import pytest
import torch

from clarion.callbacks.checkpoint import (
    LRSchedulerCheckpoint,
    ModelCheckpoint,
    OptimizerCheckpoint,
    RandomStatesCheckpoint,
    StateCheckpoint,
)
from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.callbacks.lr_scheduler import ExponentialLR, ReduceLROnPlateau
from clarion.data.nested import torch_apply
from clarion.errors import CheckpointError, InvalidTypeError
from clarion.model import Model


class Evil:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def loaded_both_ways(path):
    """Return what plain torch reads, in the way of Poutyne's users and safely."""
    plain = torch.load(path, pickle_module=pickle, map_location="cpu", weights_only=False)
    safe = torch.load(path, weights_only=True)
    assert lists(plain) == lists(safe)
    return plain


def lists(state):
    """Return a state with its tensors as lists, which compare equal bit for bit."""
    return torch_apply(state, lambda tensor: [tensor.dtype, tensor.tolist()])


def adam_model():
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    return Model(network, torch.optim.Adam(network.parameters(), lr=0.1), "mse")


def test_weights_of_every_epoch_are_saved_and_readable_by_torch(tmp_path, batches):
    model, states = adam_model(), []
    model.fit_generator(
        batches,
        epochs=3,
        callbacks=[
            ModelCheckpoint(tmp_path / "w{epoch}.ckpt"),
            LambdaCallback(on_epoch_end=lambda *_: states.append(model.get_weight_copies())),
        ],
        verbose=False,
    )
    for epoch, state in enumerate(states, start=1):
        assert lists(loaded_both_ways(tmp_path / f"w{epoch}.ckpt")) == lists(state)


def test_the_weights_of_the_best_epoch_are_restored(tmp_path, batches):
    model, weights = adam_model(), {}

    def worsen(epoch, logs):
        weights[epoch] = model.get_weight_copies()
        if epoch == 2:
            model.optimizer.param_groups[0]["lr"] = -5.0

    model.fit_generator(
        batches,
        batches,
        epochs=4,
        callbacks=[
            ModelCheckpoint(tmp_path / "best.ckpt", save_best_only=True, restore_best=True),
            LambdaCallback(on_epoch_end=worsen),
        ],
        verbose=False,
    )
    assert lists(model.get_weights()) == lists(weights[2])


def test_the_optimizer_is_saved_and_restored(tmp_path, batches):
    model = adam_model()
    checkpoint = OptimizerCheckpoint(tmp_path / "o{epoch}")
    model.fit_generator(batches, epochs=2, callbacks=[checkpoint], verbose=False)
    state = model.optimizer.state_dict()
    assert lists(loaded_both_ways(tmp_path / "o2")) == lists(state)
    other = adam_model()
    checkpoint.set_model(other)
    with open(tmp_path / "o2", "rb") as fd:
        checkpoint.restore(fd)
    assert lists(other.optimizer.state_dict()) == lists(state)


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_states_are_saved_and_restored(tmp_path):
    checkpoint = RandomStatesCheckpoint(tmp_path / "r.randomstate")
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    checkpoint.on_epoch_end(1, {"epoch": 1})
    first = draws()
    assert draws() != first
    with open(tmp_path / "r.randomstate", "rb") as fd:
        checkpoint.restore(fd)
    assert draws() == first


class Counter:
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value, "tensor": torch.full((2,), float(self.value))}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_states_of_any_objects_are_saved_and_restored(tmp_path):
    one, other = Counter(1), Counter(2)
    saver = StateCheckpoint({"one": one, "other": other}, tmp_path / "s", monitor="loss")
    saver.on_epoch_end(1, {"epoch": 1, "loss": 1.0})
    one.value = other.value = 0
    with open(tmp_path / "s", "rb") as fd:
        saver.restore(fd)
    assert (one.value, other.value) == (1, 2)
    assert loaded_both_ways(tmp_path / "s")["other"]["value"] == 2


def test_states_that_only_one_side_has_are_warned_of(tmp_path):
    StateCheckpoint({"one": Counter(1), "two": Counter(2)}, tmp_path / "s").on_epoch_end(1, {})
    kept = Counter()
    saver = StateCheckpoint({"two": kept, "three": Counter()}, tmp_path / "s")
    with (
        open(tmp_path / "s", "rb") as fd,
        pytest.warns(UserWarning, match=r'^Unexpected key\(s\): "one"\.$'),
        pytest.warns(UserWarning, match=r'^Missing key\(s\): "three"\.$'),
    ):
        saver.restore(fd)
    assert kept.value == 2


@pytest.mark.parametrize(
    "make",
    [
        ModelCheckpoint,
        OptimizerCheckpoint,
        RandomStatesCheckpoint,
        lambda path: StateCheckpoint({"one": Counter()}, path),
        lambda path: LRSchedulerCheckpoint(ExponentialLR(gamma=0.5), path),
    ],
    ids=["model", "optimizer", "random", "state", "lr_scheduler"],
)
@pytest.mark.parametrize("content", ["evil", "cut", "empty"])
def test_no_file_runs_code_and_broken_ones_are_named(tmp_path, make, content):
    path, trace = tmp_path / "file", tmp_path / "trace"
    if content == "evil":
        torch.save({"weight": Evil(trace)}, path)
    else:
        torch.save({"weight": torch.zeros(3)}, path)
        path.write_bytes(path.read_bytes()[: 100 if content == "cut" else 0])
    checkpoint = make(path)
    checkpoint.set_model(adam_model())
    with open(path, "rb") as fd, pytest.raises(CheckpointError):
        checkpoint.restore(fd)
    assert not trace.exists()


def test_a_state_file_of_another_kind_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "s")
    with (
        open(tmp_path / "s", "rb") as fd,
        pytest.raises(CheckpointError, match="a dict of states; the file holds a list"),
    ):
        StateCheckpoint({}, tmp_path / "s").restore(fd)


@pytest.mark.parametrize(
    "make", [lambda: ExponentialLR(gamma=0.5), lambda: ReduceLROnPlateau("min", monitor="loss")]
)
def test_a_schedule_is_saved_after_its_step(tmp_path, batches, make):
    model, scheduler, states = adam_model(), make(), {}
    checkpoint = LRSchedulerCheckpoint(scheduler, tmp_path / "s{epoch}")
    remember = LambdaCallback(
        on_epoch_end=lambda epoch, _: states.update({epoch: dict(scheduler.scheduler.state_dict())})
    )
    model.fit_generator(batches, epochs=3, callbacks=[checkpoint, remember], verbose=False)
    assert states[2]["last_epoch"] == 2
    for epoch, state in states.items():
        assert loaded_both_ways(tmp_path / f"s{epoch}") == state
        scheduler.load_state(tmp_path / f"s{epoch}")
        assert scheduler.scheduler.state_dict() == state


def test_a_schedule_per_optimizer_step_is_run_by_its_checkpoint(tmp_path, batches):
    model = adam_model()
    scheduler = ExponentialLR(gamma=0.5, interval="batch")
    checkpoint = LRSchedulerCheckpoint(scheduler, tmp_path / "s")
    model.fit_generator(batches, epochs=2, callbacks=[checkpoint], verbose=False)
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**6)
    assert torch.load(tmp_path / "s")["last_epoch"] == 6


def test_a_schedule_checkpoint_resumes_with_its_schedule(tmp_path, batches):
    def make():
        return LRSchedulerCheckpoint(
            ExponentialLR(gamma=0.5), tmp_path / "s", monitor="loss", save_best_only=True
        )

    model, first, second = adam_model(), make(), make()
    model.fit_generator(batches, epochs=2, callbacks=[first], verbose=False)
    second.load_state_dict(first.state_dict())
    assert second.current_best == first.current_best
    rates = LambdaCallback(
        on_epoch_begin=lambda *_: seen.append(model.optimizer.param_groups[0]["lr"])
    )
    seen = []
    model.fit_generator(
        batches, epochs=4, initial_epoch=3, callbacks=[second, rates], verbose=False
    )
    assert seen == pytest.approx([0.025, 0.0125])
    with pytest.raises(CheckpointError, match='LRSchedulerCheckpoint lacks "lr_scheduler"'):
        second.load_state_dict({})


def test_only_a_schedule_is_taken():
    with pytest.raises(InvalidTypeError, match=r"ExponentialLR\(gamma=0.9\), not a LambdaCallback"):
        LRSchedulerCheckpoint(LambdaCallback(), "s")
    bare = torch.optim.lr_scheduler.ExponentialLR(adam_model().optimizer, 0.5)
    with pytest.raises(ValueError, match="not a ExponentialLR"):
        LRSchedulerCheckpoint(bare, "s")
