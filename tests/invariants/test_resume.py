"""A training that stopped and was resumed equals one that never stopped, bit for bit."""

import itertools
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from comparing import assert_equal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clarion.callbacks.base import Callback
from clarion.callbacks.best_model_restore import BestModelRestore
from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)
from clarion.checkpoints import files
from clarion.checkpoints.reader import read_checkpoint
from clarion.experiment import training
from clarion.experiment.experiment import Experiment
from clarion.experiment.history import read_log

EPOCHS = 6
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) + torch.randn(40, generator=torch.Generator().manual_seed(3)) > 0).long()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(training, "save_plots", lambda *args, **kwargs: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Noise(nn.Module):
    """Adds noise drawn from all three global generators."""

    def forward(self, x):
        if self.training:
            x = x + 0.01 * random.random() + 0.01 * np.random.rand() + 0.01 * torch.randn_like(x)
        return x


class Memory(Callback):
    """A user's callback with a state of its own, which counts, keeps a tensor, and draws."""

    def __init__(self):
        self.seen = []
        self.sum = torch.zeros(())

    def on_train_begin(self, logs):
        torch.rand(3)  # what is drawn before the first epoch must not matter on resume

    def on_epoch_end(self, epoch_number, logs):
        self.seen.append((epoch_number, logs["loss"]))
        self.sum = self.sum + torch.rand(())

    def state_dict(self):
        return {"seen": self.seen, "sum": self.sum}

    def load_state_dict(self, state):
        self.seen = state["seen"]
        self.sum = state["sum"]


class Session:
    """One process: everything is built anew, and only the directory is shared."""

    def __init__(self, directory, *, schedulers="all", optimizer="adamw", patience=50):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), Noise(), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
        )
        torch.rand(torch.randint(1, 50, ()))  # processes differ in what they drew before
        random.seed()
        self.experiment = Experiment(
            directory,
            network,
            optimizer={"optim": optimizer, "lr": 0.1},
            task="classif",
            monitor_metric="val_loss",
        )
        self.schedulers = {
            "all": lambda: [
                ExponentialLR(gamma=0.9),
                ReduceLROnPlateau(factor=0.5, patience=0, monitor="val_loss"),
            ],
            "step": lambda: [StepLR(step_size=2, gamma=0.1)],
            "cosine": lambda: [CosineAnnealingLR(T_max=4, interval="batch")],
            "one cycle": lambda: [OneCycleLR(max_lr=0.1, total_steps=30, interval="batch")],
        }[schedulers]()
        self.early_stopping = EarlyStopping(monitor="val_loss", patience=patience)
        self.best = BestModelRestore(monitor="val_acc", mode="max")
        self.memory = Memory()

    def train(self, epochs, **options):
        options = {"batch_size": 8, "batches_per_step": 2, **options}
        return self.experiment.train_data(
            X[:30],
            Y[:30],
            (X[30:], Y[30:]),
            epochs=epochs,
            lr_schedulers=self.schedulers,
            callbacks=[self.early_stopping, self.best, self.memory],
            disable_tensorboard=True,
            verbose=False,
            **options,
        )


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def assert_same_results(resumed, reference):
    """Compare all that a training leaves behind: files, and the model in memory."""
    mine, other = resumed.experiment, reference.experiment
    assert_equal(
        read_checkpoint(mine.checkpoint_directory).state | {"callbacks": None},
        read_checkpoint(other.checkpoint_directory).state | {"callbacks": None},
    )
    assert_equal(callbacks_of(mine), callbacks_of(other))
    assert_equal(
        without_time(read_log(mine.log_filename)), without_time(read_log(other.log_filename))
    )
    for name in ("model_checkpoint_filename", "optimizer_checkpoint_filename"):
        one = torch.load(getattr(mine, name), weights_only=True)
        assert_equal(one, torch.load(getattr(other, name), weights_only=True))
    assert_equal(dict(mine.model.get_weights()), dict(other.model.get_weights()))
    assert mine.saved_epochs() == other.saved_epochs()
    for epoch in mine.saved_epochs():
        one = torch.load(mine.best_checkpoint_of(epoch), weights_only=True)
        assert_equal(one, torch.load(other.best_checkpoint_of(epoch), weights_only=True))
    for callback in ("early_stopping", "best", "memory"):
        one = getattr(resumed, callback).state_dict()
        assert_equal(one, getattr(reference, callback).state_dict(), callback)


def callbacks_of(experiment):
    """Return the saved states of the callbacks; paths inside are taken relative."""
    states = read_checkpoint(experiment.checkpoint_directory).state["callbacks"]
    for state in states.values():
        if state.get("best_filename"):
            state["best_filename"] = os.path.basename(state["best_filename"])
    return states


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The training that never stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "save_plots", lambda *args, **kwargs: None)
        session = Session(tmp_path_factory.mktemp("reference"))
        history = session.train(EPOCHS)
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    return session


@pytest.mark.parametrize("stops", [[3], [1, 2, 5], [1, 2, 3, 4, 5]])
def test_resumed_at_the_edge_of_an_epoch(tmp_path, reference, stops):
    first = 1
    for epochs in [*stops, EPOCHS]:
        session = Session(tmp_path)
        history = session.train(epochs)
        assert [row["epoch"] for row in history] == list(range(first, epochs + 1))
        first = epochs + 1
    assert_same_results(session, reference)


def test_resumed_by_the_same_objects(tmp_path, reference):
    session = Session(tmp_path)
    session.train(3)
    session.train(EPOCHS)
    assert_same_results(session, reference)


def test_the_reference_is_no_trivial_training(reference):
    rows = read_log(reference.experiment.log_filename)
    assert len({row["loss"] for row in rows}) == EPOCHS
    assert rows[-1]["lr"] < rows[1]["lr"] < rows[0]["lr"]
    assert reference.early_stopping.wait == 2
    assert reference.experiment.saved_epochs() == [1, 2, 3, 4]
    ratios = {round(two["lr"] / one["lr"], 3) for one, two in itertools.pairwise(rows)}
    assert 0.45 in ratios  # the plateau scheduler acted too
    assert reference.experiment.model.progress.step == EPOCHS * 2


@pytest.mark.parametrize("schedulers", ["step", "cosine", "one cycle"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_other_schedules(tmp_path, schedulers, optimizer):
    options = {"schedulers": schedulers, "optimizer": optimizer}
    whole = Session(tmp_path / "whole", **options)
    whole.train(4)
    Session(tmp_path / "parts", **options).train(2)
    resumed = Session(tmp_path / "parts", **options)
    resumed.train(4)
    assert_same_results(resumed, whole)


def test_early_stopping_stops_at_the_same_epoch_and_stays_stopped(tmp_path):
    whole = Session(tmp_path / "whole", patience=3)
    ran = len(whole.train(30))
    assert 3 < ran < 30
    for epochs in (ran - 1, 30):
        parts = Session(tmp_path / "parts", patience=3)
        parts.train(epochs)
    assert_same_results(parts, whole)
    again = Session(tmp_path / "parts", patience=3)
    assert again.train(30) == []
    assert_equal(
        dict(again.experiment.model.get_weights()), dict(whole.experiment.model.get_weights())
    )
    more_patient = Session(tmp_path / "parts", patience=50)
    assert [row["epoch"] for row in more_patient.train(ran + 1)] == [ran + 1]


def test_loaders_with_a_generator_of_their_own(tmp_path):
    def session(directory, epochs):
        one = Session(directory)
        loader = DataLoader(
            TensorDataset(X, Y), 8, shuffle=True, generator=torch.Generator().manual_seed(5)
        )
        one.experiment.train(
            loader, [(X, Y)], epochs=epochs, disable_tensorboard=True, verbose=False
        )
        return one.experiment

    whole = session(tmp_path / "whole", 4)
    session(tmp_path / "parts", 2)
    parts = session(tmp_path / "parts", 4)
    assert_equal(dict(parts.model.get_weights()), dict(whole.model.get_weights()))
    assert_equal(
        without_time(read_log(parts.log_filename)), without_time(read_log(whole.log_filename))
    )


def run_and_die(directory, die_at):
    """Train in a forked process that is killed before the ``die_at``-th operation on the disk.

    Returns:
        How many operations there were, or None if it was killed.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            done = []

            def counted(function):
                def call(*args, **kwargs):
                    if len(done) == die_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    done.append(function)
                    return function(*args, **kwargs)

                return call

            session = Session(directory)
            for module, name in ((os, "replace"), (os, "rename"), (os, "fsync"), (os, "mkdir")):
                setattr(module, name, counted(getattr(module, name)))
            session.train(4)
            os.write(write, str(len(done)).encode())
        finally:
            os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    answer = os.read(read, 20)
    os.close(read)
    assert os.WIFSIGNALED(status) == (not answer)
    return int(answer) if answer else None


def kill_at(points, tmp_path, reference):
    """Kill a training in its fourth epoch at each of ``points``, resume it, and compare."""
    resumed_at = set()
    for point in points:
        directory = tmp_path / f"killed-{point}"
        shutil.copytree(tmp_path / "three", directory)
        assert run_and_die(directory, die_at=point) is None
        session = Session(directory)
        history = session.train(EPOCHS)
        resumed_at.add(history[0]["epoch"])
        assert_same_results(session, reference)
        shutil.rmtree(directory)
    assert resumed_at == {4, 5}  # before and after the checkpoint took its place


@pytest.fixture
def three(tmp_path):
    """A training of three epochs, and the number of disk operations that the fourth has."""
    Session(tmp_path / "three").train(3)
    shutil.copytree(tmp_path / "three", tmp_path / "count")
    return run_and_die(tmp_path / "count", die_at=None)


def test_killed_while_writing(tmp_path, reference, three):
    assert three > 20
    kill_at([0, *range(4, three, 8), three - 1], tmp_path, reference)


@pytest.mark.slow
def test_killed_before_every_operation_on_the_disk(tmp_path, reference, three):
    kill_at(range(three), tmp_path, reference)


def test_a_broken_newest_checkpoint(tmp_path, reference):
    Session(tmp_path).train(4)
    broken = tmp_path / "checkpoints" / "last" / "optimizer.safetensors"
    content = bytearray(broken.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(content)
    session = Session(tmp_path)
    with pytest.warns(UserWarning, match=r"optimizer\.safetensors.*is broken.*epoch 3"):
        history = session.train(EPOCHS)
    assert history[0]["epoch"] == 4
    assert_same_results(session, reference)


def test_files_are_flushed_before_they_take_their_place(monkeypatch, tmp_path):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, f=function, n=name: (calls.append(n), f(*args))[1]
        )
    files.replace_file(tmp_path / "a", lambda file: file.write(b"a"))
    assert calls == ["fsync", "replace", "fsync"]
