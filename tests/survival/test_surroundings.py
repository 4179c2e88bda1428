"""A clock that goes backwards, and a standard output that nobody reads."""

import os
import sys
import time

import pytest

from clarion.experiment.history import read_log


def test_a_clock_that_goes_backwards(build, train, tmp_path, monkeypatch):
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    experiment = build(tmp_path)
    options = {"max_time": "1h", "validate_every": "10min", "verbose": True}
    history = train(experiment, 3, disable_tensorboard=False, **options)
    assert next(clock) < 10**9  # clarion does not ask this clock, tensorboard does
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for row in [*history, *read_log(experiment.log_filename)]:
        assert 0 <= row["time"] < 60
    resumed = build(tmp_path)
    assert [row["epoch"] for row in train(resumed, 4)] == [4]


def closed_pipe():
    read, write = os.pipe()
    os.close(read)
    return write


def full_pipe():
    write = os.pipe()[1]  # the other end stays open, and nobody reads it
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(1000))
    except BlockingIOError:
        return write


def full_device():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("stream", [closed_pipe, full_pipe, full_device])
def test_a_standard_output_that_nobody_reads(build, train, tmp_path, in_child, stream):
    def trains():
        os.dup2(stream(), 1)
        sys.stdout = open(1, "w")  # noqa: SIM115  # it stays for the rest of the process
        return len(train(build(tmp_path), 2, verbose=True))

    assert in_child(trains) == 2
    assert len(read_log(tmp_path / "log.tsv")) == 2


def test_a_standard_output_that_is_closed(build, train, tmp_path, in_child):
    def trains():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.stdout.close()
        return len(train(build(tmp_path), 2, verbose=True))

    assert in_child(trains) == 2
