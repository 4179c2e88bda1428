import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from clarion.checkpoints import lock as lock_module
from clarion.checkpoints.lock import DirectoryLock
from clarion.errors import CheckpointError, DirectoryInUseError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "lock"


def hold(path, ready):
    """Hold the lock for ever, with a worker process that was forked meanwhile."""
    with DirectoryLock(path):
        child = FORK.Process(target=time.sleep, args=(60,))
        child.start()
        ready.put(child.pid)
        time.sleep(60)


@pytest.fixture
def holder(path):
    """A process that holds the lock, and the number of its own child."""
    ready = FORK.Queue()
    process = FORK.Process(target=hold, args=(path, ready))
    process.start()
    process.worker = ready.get(timeout=30)
    yield process
    os.kill(process.worker, signal.SIGKILL)
    process.kill()
    process.join()


def test_the_second_is_refused_with_the_pid_and_the_host_of_the_first(path, holder):
    expected = rf"Another training uses .*: process {holder.pid} on {socket.gethostname()}, since 2"
    with pytest.raises(DirectoryInUseError, match=expected):
        DirectoryLock(path).acquire()


def test_a_kill_lets_go_though_a_worker_outlives_it(path, holder):
    holder.kill()
    holder.join()
    os.kill(holder.worker, 0)  # it is alive
    with DirectoryLock(path):  # no warning, no question
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_same_process_cannot_train_twice_in_a_directory(path):
    with DirectoryLock(path), pytest.raises(DirectoryInUseError, match=f"process {os.getpid()} on"):
        DirectoryLock(path).acquire()


def test_when_it_is_released_the_next_one_has_it(path):
    for _ in range(2):
        lock = DirectoryLock(path)
        with lock:
            lock.check()
        assert path.read_bytes() == b""
    lock.check()  # not held, nothing to check
    lock.release()


def test_an_error_inside_lets_go(path):
    with pytest.raises(ZeroDivisionError), DirectoryLock(path):
        raise ZeroDivisionError
    with DirectoryLock(path):
        pass


def other_host(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "yesterday"}))


def test_another_host_that_has_not_let_go_is_told_of(path):
    other_host(path)
    with (
        pytest.warns(UserWarning, match=r"process 7 on elsewhere, since yesterday, which has not"),
        DirectoryLock(path) as lock,
    ):
        lock.check()


def test_who_is_taken_over_from_ends(path):
    with DirectoryLock(path) as lock:
        other_host(path)
        with pytest.raises(DirectoryInUseError, match=r"taken over .*: process 7 on elsewhere"):
            lock.check()
    assert "elsewhere" in path.read_text()  # what is another's is left alone


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_any_content_can_be_there(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with DirectoryLock(path) as lock:
        lock.check()


def test_a_file_system_without_locks(path, monkeypatch):
    def flock(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock_module._fcntl, "flock", flock)
    with DirectoryLock(path) as lock:
        lock.check()


def test_a_directory_that_cannot_be_written(path, monkeypatch):
    def read_only(*args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(CheckpointError, match=r'checkpoints" cannot be written: Read-only file sy'):
        DirectoryLock(path).acquire()


def test_on_windows_the_file_tells_of_the_holder(path, monkeypatch):
    monkeypatch.setattr(lock_module, "_fcntl", None)
    for name in ("pread", "pwrite"):
        monkeypatch.delattr(os, name)
    first = DirectoryLock(path).acquire()
    first.check()
    monkeypatch.setattr(os, "getpid", lambda: 7)
    second = DirectoryLock(path).acquire()
    with pytest.raises(DirectoryInUseError, match="taken over by another training: process 7 on"):
        first.check()
    first.release()
    second.check()
    second.release()
    assert path.read_bytes() == b""
