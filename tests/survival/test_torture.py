"""A program that is killed again and again ends where one that never was ends, bit for bit."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from comparing import assert_equal

from clarion.experiment.history import read_log

VICTIM = Path(__file__).with_name("victim.py")
PATIENCE = 60  # seconds after which a victim that does not come to its next step is a failure
GLANCE = 1e-4  # seconds between two looks at what the victim is doing


class Killer:
    """Runs the program, and kills it."""

    def __init__(self, directory):
        self.directory = directory
        self.state = directory / "state"
        self.state.write_bytes(bytes(24))
        self.program = subprocess.Popen(
            [sys.executable, str(VICTIM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.pid = 0

    def start(self, name):
        self.state.write_bytes(bytes(24))
        self.name = name
        command = f"{self.state} {self.directory / name} {self.result_file}\n"
        self.program.stdin.write(command)
        self.program.stdin.flush()
        self.pid = int(self.program.stdout.readline())

    @property
    def result_file(self):
        return self.directory / f"{self.name}.result"

    @property
    def doing(self):
        """Optimizer steps done, and whether it validates and writes."""
        content = self.state.read_bytes()
        return [int.from_bytes(content[i : i + 8], "little") for i in (0, 8, 16)]

    def has_ended(self):
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def wait(self):
        return int(self.program.stdout.readline())

    def position(self):
        """The position that the next start goes on from: steps done; 0 without a checkpoint."""
        steps = [0]
        for slot in ("last", "last.previous"):
            file = self.directory / self.name / "checkpoints" / slot / "manifest.json"
            with contextlib.suppress(FileNotFoundError):
                steps.append(json.loads(file.read_text())["info"]["step"])
        return max(steps)

    def kill(self, moment):
        """Kill the program at a moment; return what it was doing, None if it ended before."""
        before, deadline = self.position(), time.monotonic() + PATIENCE
        while not self.has_ended():
            assert time.monotonic() < deadline, "the victim makes no progress"
            step, *_ = doing = self.doing
            is_resumable = before or self.position()
            if is_resumable and step > before + 1 and moment(doing):
                os.killpg(self.pid, signal.SIGKILL)
                break
            time.sleep(GLANCE)  # the victim needs the processor more
        status = self.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its workers, if any is left
        if status == 0:
            return None
        assert status == signal.SIGKILL, "the victim ended by itself, with an error"
        assert not self.result_file.exists()
        return self.doing

    def close(self):
        self.program.stdin.close()
        self.program.stdout.close()
        self.program.wait()


@pytest.fixture
def killer(tmp_path):
    killer = Killer(tmp_path)
    yield killer
    killer.close()


def moments(seed):
    """Yield endless moments to kill at: in training, in a validation, in a write, or anywhere."""
    chance = random.Random(seed)
    while True:
        kind = chance.choice(["train", "valid", "write", "any"])
        delay = chance.uniform(0.0, 0.004)
        until = None

        def moment(doing, kind=kind, delay=delay):
            nonlocal until
            _, validates, writes = doing
            fits = {"train": not validates and not writes, "valid": validates, "write": writes}
            if not fits.get(kind, True):
                until = None
                return False
            if until is None:
                until = time.monotonic() + delay
            return time.monotonic() >= until

        yield moment


def outcome(killer):
    result = torch.load(killer.result_file, weights_only=True)
    history = [{**logs, "time": 0} for logs in result.pop("history")]
    log = read_log(killer.directory / killer.name / "log.tsv")
    return result, history, [{**row, "time": 0} for row in log]


def check(killer, kills, seed):
    killer.start("whole")
    assert killer.wait() == 0
    state, history, log = outcome(killer)
    total = state["progress"]["step"]
    assert total > 50
    assert len(history) == len(log) < 15, "early stopping has a part in this"
    runs, seen, pending = 0, Counter(), moments(seed)
    while seen["kills"] < kills:
        runs += 1
        name = f"run{runs}"
        killer.start(name)
        while seen["kills"] < kills and (doing := killer.kill(next(pending))) is not None:
            step, validates, writes = doing
            assert 0 < killer.position() <= step <= total
            seen.update(kills=1, valid=bool(validates), write=bool(writes), train=not validates)
            killer.start(name)
        if not killer.result_file.exists():
            assert killer.wait() == 0
        finished, last_history, whole_log = outcome(killer)
        assert_equal(state, finished)
        assert_equal(history[-len(last_history) :], last_history)
        assert_equal(log, whole_log)
    assert min(seen[kind] for kind in ("train", "valid", "write")) > 0, seen


@pytest.mark.slow
def test_30_kills(killer):
    check(killer, 30, seed=1)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_200_kills(killer):
    check(killer, 200, seed=2)
