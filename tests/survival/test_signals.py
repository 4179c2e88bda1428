"""Signals: the step is brought to its end, everything is saved, and nothing differs later."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from clarion.callbacks.base import Callback
from clarion.checkpoints.reader import read_checkpoint
from clarion.experiment.history import read_log

NAMES = ["SIGINT", "SIGTERM", "SIGUSR1"]


class Send(Callback):
    """Sends this process signals in a batch of the second epoch, or in its validation."""

    def __init__(self, *names, batch=2, where="train"):
        self.numbers = [getattr(signal, name) for name in names]
        self.batch, self.where = batch, where
        self.epoch = 0
        self.later = []

    def on_epoch_begin(self, epoch_number, logs):
        self.epoch = epoch_number

    def on_train_batch_begin(self, batch_number, logs):
        self._reached("train", batch_number)
        if self.epoch == 2 and batch_number > self.batch:
            self.later.append(batch_number)

    def on_valid_batch_begin(self, batch_number, logs):
        self._reached("valid", batch_number)

    def _reached(self, where, batch_number):
        if (self.epoch, where, batch_number) == (2, self.where, self.batch):
            for number in self.numbers:
                os.kill(os.getpid(), number)


def left_by(name, train, experiment, **options):
    """Train until the signal; return the history, if there is one."""
    sender = Send(name, **options)
    arguments = {"callbacks": [sender], "checkpoint_every": None}
    if name == "SIGUSR1":
        return train(experiment, 4, **arguments), sender
    expected = KeyboardInterrupt if name == "SIGINT" else SystemExit
    with pytest.raises(expected) as caught:
        train(experiment, 4, **arguments)
    if name == "SIGTERM":
        assert caught.value.code == 143
    return None, sender


@pytest.mark.parametrize("name", NAMES)
def test_it_stops_after_the_step_and_goes_on_as_if_nothing_had_been(
    build, train, tmp_path, assert_same, capfd, name
):
    experiment = build(tmp_path / "stopped")
    before = {one: signal.getsignal(getattr(signal, one)) for one in [*NAMES, "SIGCHLD"]}
    history, sender = left_by(name, train, experiment)
    assert sender.later == []
    assert before == {one: signal.getsignal(getattr(signal, one)) for one in before}
    out, err = capfd.readouterr()
    assert f"{name}: the training is saved in epoch 2 after batch 2" in out
    assert f"{name}: the training stops after this step" in err
    info = read_checkpoint(experiment.checkpoint_directory).manifest.info
    assert (info["epoch"], info["batch"], info["reason"]) == (1, 2, name)
    if history is not None:
        assert [row["epoch"] for row in history] == [1]
        assert experiment.interrupted == "SIGUSR1"
    resumed = build(tmp_path / "stopped")
    history = train(resumed, 4)
    assert [row["epoch"] for row in history] == [2, 3, 4]
    assert resumed.interrupted is None
    whole = build(tmp_path / "whole")
    train(whole, 4)
    assert_same(resumed, whole)


@pytest.mark.parametrize("name", NAMES)
def test_in_a_validation_the_epoch_is_brought_to_its_end(build, train, tmp_path, assert_same, name):
    experiment = build(tmp_path / "stopped")
    left_by(name, train, experiment, where="valid")
    assert len(read_log(experiment.log_filename)) == 2
    assert read_checkpoint(experiment.checkpoint_directory).manifest.info["epoch"] == 2
    resumed = build(tmp_path / "stopped")
    assert [row["epoch"] for row in train(resumed, 4)] == [3, 4]
    whole = build(tmp_path / "whole")
    train(whole, 4)
    assert_same(resumed, whole)


def test_accumulated_batches_are_not_cut_apart(build, train, tmp_path):
    experiment = build(tmp_path)
    options = {"batch_size": 4, "batches_per_step": 3, "checkpoint_every": None}
    sender = Send("SIGUSR1", batch=1)
    train(experiment, 4, callbacks=[sender], **options)
    assert sender.later == [2, 3]
    assert read_checkpoint(experiment.checkpoint_directory).manifest.info["batch"] == 3


@pytest.mark.parametrize(
    ("names", "signals"),
    [(["SIGINT"] * 2, {2}), (["SIGTERM", "SIGINT"], {2}), (["SIGUSR1", "SIGINT", "SIGINT"], {2})],
)
def test_the_second_one_acts_at_once(build, train, tmp_path, names, signals):
    experiment = build(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, 4, callbacks=[Send(*names)])
    info = read_checkpoint(experiment.checkpoint_directory).manifest.info
    assert (info["epoch"], info["batch"]) == (1, 0)  # not saved anew
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_request_to_pause_gives_way_to_one_to_end(build, train, tmp_path):
    with pytest.raises(SystemExit):
        train(build(tmp_path), 4, callbacks=[Send("SIGUSR1", "SIGTERM", "SIGUSR1")])


def test_a_handler_of_ones_own_stays(build, train, tmp_path):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        history = train(build(tmp_path), 3, callbacks=[Send("SIGUSR1")])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]
    assert len(history) == 3


def test_in_another_thread_signals_are_left_alone(build, train, tmp_path):
    seen = []

    class Watch(Callback):
        def on_epoch_begin(self, epoch_number, logs):
            seen.append(signal.getsignal(signal.SIGTERM))

    arguments = (build(tmp_path), 1)
    thread = threading.Thread(target=train, args=arguments, kwargs={"callbacks": [Watch()]})
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_a_model_alone_leaves_signals_alone(build, rows, tmp_path):
    model, options = build(tmp_path).model, {"epochs": 3, "batch_size": 8, "verbose": False}
    sender = Send("SIGINT")
    with pytest.raises(KeyboardInterrupt):
        model.fit(*rows, callbacks=[sender], **options)
    assert model.progress.batch == 1  # in the midst of the step


def test_without_a_directory_signals_are_left_alone(build, train, tmp_path):
    sender = Send("SIGINT")
    with pytest.raises(KeyboardInterrupt):
        train(build(tmp_path, logging=False), 3, callbacks=[sender])
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


PROGRAM = """
import sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from clarion import Callback, Experiment
torch.set_num_threads(1)
# At the end torch imports it, if it is there, and Python then forgets that a signal ended it.
sys.modules["tabulate"] = None

class Rows(TensorDataset):
    def __getitem__(self, index):
        time.sleep(float(sys.argv[2]))
        return super().__getitem__(index)

class Tell(Callback):
    def on_train_batch_end(self, batch_number, logs):
        print("batch", flush=True)

torch.manual_seed(0)
x = torch.linspace(-1, 1, 160).reshape(40, 4)
loader = DataLoader(Rows(x, x.sum(1, keepdim=True)), 4, shuffle=True, num_workers=2)
network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
experiment = Experiment(sys.argv[1], network, optimizer="adam", task="reg", monitoring=False)
options = dict(verbose=False, disable_tensorboard=True, callbacks=[Tell()])
history = experiment.train(loader, epochs=2, **options)
print("after", experiment.interrupted, flush=True)
"""


def started(directory, seconds):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(directory), str(seconds)]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", -2), ("SIGTERM", 143), ("SIGUSR1", 0)])
def test_a_program_with_workers_whose_whole_group_is_signalled(tmp_path, name, code):
    with started(tmp_path / "stopped", 0.01) as process:
        for _ in range(3):
            assert process.stdout.readline() == "batch\n"
        os.killpg(process.pid, getattr(signal, name))
        text = process.stdout.read()
    assert process.returncode == code
    assert ("after SIGUSR1" in text) == (name == "SIGUSR1")
    info = read_checkpoint(tmp_path / "stopped" / "checkpoints" / "last").manifest.info
    assert info["reason"] == name
    assert 3 <= info["batch"] < 10
    ends = []
    for directory in ("stopped", "whole"):
        left = 20 if directory == "whole" else 20 - info["batch"]
        with started(tmp_path / directory, 0) as process:
            assert process.stdout.read().count("batch") == left
        assert process.returncode == 0
        ends.append(torch.load(tmp_path / directory / "checkpoint.ckpt", weights_only=True))
    torch.testing.assert_close(*ends, rtol=0, atol=0)
