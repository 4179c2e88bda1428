"""Two trainings in one directory: the second is refused, and changes nothing."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from clarion.callbacks.base import Callback
from clarion.checkpoints.async_writer import wait_for_writes
from clarion.errors import DirectoryInUseError
from clarion.experiment.history import read_log


class Endless(Callback):
    """Stays in the second epoch until it is killed, and says so."""

    def __init__(self, pipe, directory):
        self.pipe, self.directory = pipe, directory

    def on_epoch_begin(self, epoch_number, logs):
        if epoch_number == 2:
            wait_for_writes(self.directory)
            os.write(self.pipe, b"x")
            time.sleep(60)


@pytest.fixture
def other(build, train, tmp_path):
    """The number of a process that trains in the directory."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            experiment = build(tmp_path)
            train(experiment, 4, callbacks=[Endless(write, experiment.checkpoint_directory)])
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.close(read)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_the_second_training_is_refused(build, train, tmp_path, other):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")}
    assert before
    with pytest.raises(DirectoryInUseError, match=f"process {other} on"):
        train(build(tmp_path), 4)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")} == before


def test_after_a_kill_the_next_goes_on_without_a_question(build, train, tmp_path, other):
    os.kill(other, signal.SIGKILL)
    while "State:\tZ" not in Path(f"/proc/{other}/status").read_text():
        time.sleep(0.01)
    assert [row["epoch"] for row in train(build(tmp_path), 3)] == [2, 3]


class TakenOver(Callback):
    """Does what a training on a host that does not see the lock would do."""

    def __init__(self, path):
        self.path = path

    def on_epoch_begin(self, epoch_number, logs):
        if epoch_number == 3:
            with open(self.path, "r+") as file:
                file.truncate()
                json.dump({"pid": 7, "host": "elsewhere", "since": "now"}, file)


def test_a_training_that_is_taken_over_ends_without_a_checkpoint(build, train, tmp_path):
    experiment = build(tmp_path)
    with pytest.raises(DirectoryInUseError, match=r"taken over .*process 7 on elsewhere"):
        train(experiment, 5, callbacks=[TakenOver(experiment.lock_filename)])
    assert len(read_log(experiment.log_filename)) == 3
    with pytest.warns(UserWarning, match="process 7 on elsewhere"):
        assert [row["epoch"] for row in train(build(tmp_path), 4)] == [3, 4]


def test_the_other_ranks_of_a_job_need_no_lock(build, train, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    train(build(tmp_path / "run", monitoring=False), 1)
    assert not (tmp_path / "run").exists()
