"""Two processes that work together over gloo, started once for all tests that need them."""

import contextlib
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Listener
from pathlib import Path

import pytest

SERVE = Path(__file__).with_name("serve.py")
PATIENCE = 100  # seconds
GONE = ("gone", "its process has ended")


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environment(rank, world_size, port):
    return {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


class Ranks:
    """Calls a function of a test module on every rank; starts the ranks when first needed."""

    def __init__(self, world_size):
        self.world_size = world_size
        self._processes = []
        self._connections = []

    def __call__(self, function, *arguments):
        """Return what the function returns on each rank, and raise what it raises there."""
        answers = self.attempt(function, *arguments)
        failures = [trace for _, trace in answers if trace is not None]
        assert not failures, "\n".join(failures)
        return [value for value, _ in answers]

    def errors(self, function, *arguments):
        """Return the error of each rank as text."""
        answers = self.attempt(function, *arguments)
        assert all(trace is not None for _, trace in answers), "some rank raised no error"
        return [text for text, _ in answers]

    def attempt(self, function, *arguments):
        self._start()
        call = (function.__code__.co_filename, function.__name__, arguments)
        for connection in self._connections:
            connection.send(call)
        answers = []
        for connection in self._connections:
            if not connection.poll(PATIENCE if not answers else 10):
                self.stop()
                pytest.fail(f"rank {len(answers)} does not answer; those before: {answers}")
            answers.append(_answer_of(connection))
        if GONE in answers or len({trace is None for _, trace in answers}) == 2:
            self.stop()  # who knows what one of them still waits for
        return answers

    def stop(self):
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.send(None)
            connection.close()
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes, self._connections = [], []

    def _start(self):
        if self._processes:
            return
        port = free_port()
        with Listener(family="AF_UNIX") as listener:
            # One after the other, so that the connections are in the order of the ranks.
            for rank in range(self.world_size):
                command = [sys.executable, str(SERVE), listener.address]
                env = environment(rank, self.world_size, port)
                process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
                self._processes.append(process)
                self._connections.append(listener.accept())
        for connection in self._connections:
            connection.recv()


def _answer_of(connection):
    try:
        return connection.recv()
    except EOFError:
        return GONE


@pytest.fixture(scope="session")
def ranks():
    """Two ranks; the first test that uses them waits until they are there."""
    two = Ranks(2)
    yield two
    two.stop()
