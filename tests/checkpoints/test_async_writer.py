import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch

from clarion.checkpoints import async_writer, writer
from clarion.checkpoints.async_writer import BackgroundWriter, wait_for_writes
from clarion.checkpoints.manifest import Manifest
from clarion.checkpoints.reader import read_checkpoint, read_newest
from clarion.checkpoints.retention import Retention
from clarion.errors import CheckpointError


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def state_of(number):
    """Return a state of all kinds of values, which say its number."""
    return {
        "network": {"w": torch.full((3, 4), float(number)), "wave": torch.full((2,), number * 1j)},
        "progress": {"epoch": number, "history": [{"loss": float(number)}]},
    }


@pytest.fixture
def background(tmp_path):
    return BackgroundWriter(tmp_path / "last")


@pytest.fixture
def gate(monkeypatch):
    """A gate that is shut: writes wait at it before their first file."""
    gate = threading.Event()
    original = writer.remove

    def remove(path):
        assert gate.wait(20)
        original(path)

    monkeypatch.setattr(writer, "remove", remove)
    yield gate
    gate.set()


def assert_holds(directory, number):
    state = read_checkpoint(directory).state
    expected = state_of(number)
    assert state["progress"] == expected["progress"]
    for name, value in expected["network"].items():
        assert torch.equal(state["network"][name], value)


def test_what_was_written_comes_back(background):
    background.write(state_of(1), info={"epoch": 1})
    background.wait()
    assert_holds(background.directory, 1)
    assert Manifest.read(background.directory).info == {"epoch": 1}


def test_it_returns_before_anything_is_written_and_later_changes_do_not_matter(background, gate):
    state = state_of(1)
    background.write(state)
    assert background.is_busy
    assert not background.directory.exists()
    state["network"]["w"].zero_()
    state["network"]["wave"].zero_()
    state["progress"]["history"][0]["loss"] = 7.0
    state["progress"]["history"].append({})
    state["progress"]["epoch"] = 7
    gate.set()
    background.wait()
    assert not background.is_busy
    assert_holds(background.directory, 1)


def test_the_copies_are_kept_and_used_again(background, monkeypatch):
    made = []
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *args, **kw: (made.append(args), empty(*args, **kw))[1]
    )
    for number in (1, 2, 3):
        background.write(state_of(number))
    background.wait()
    assert len(made) == 2
    assert_holds(background.directory, 3)


@pytest.mark.parametrize(
    "other",
    [torch.ones(5, 4), torch.ones(3, 4, dtype=torch.float64), torch.ones(3, 1).expand(3, 4)],
)
def test_tensors_of_another_shape_or_type_get_copies_of_their_own(background, other):
    background.write(state_of(1))
    background.write({"network": {"w": other}})
    background.wait()
    read = read_checkpoint(background.directory).state["network"]["w"]
    assert torch.equal(read, other)
    assert read.dtype == other.dtype


def test_tied_tensors_and_views_are_all_kept(background):
    tied = torch.arange(4.0)
    background.write({"network": {"a": tied, "b": tied, "c": tied[:2], "none": tied[:0]}})
    background.wait()
    state = read_checkpoint(background.directory).state["network"]
    assert [state[name].tolist() for name in "abc"] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    assert state["none"].shape == (0,)


def test_at_most_one_write_is_under_way(background, gate):
    background.write(state_of(1))
    second = threading.Thread(target=background.write, args=(state_of(2),))
    second.start()
    second.join(0.05)
    assert second.is_alive()  # it waits for the first
    gate.set()
    second.join()
    background.wait()
    assert_holds(background.directory, 2)
    assert_holds(background.directory.with_name("last.previous"), 1)


def failing(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save_file", full)


@pytest.mark.parametrize("how", ["wait", "write"])
def test_an_error_is_raised_once_by_the_next_call(background, monkeypatch, how):
    background.write(state_of(1))
    background.wait()
    with monkeypatch.context() as patch:
        failing(patch)
        background.write(state_of(2))
        background._thread.join()
        assert background.has_failed
    call = {"write": lambda: background.write(state_of(3))}.get(how) or getattr(background, how)
    with pytest.raises(CheckpointError, match="No space left"):
        call()
    assert not background.has_failed
    background.wait()
    assert_holds(background.directory, 1)
    background.write(state_of(4))
    background.wait()
    assert_holds(background.directory, 4)


def test_what_cannot_be_kept_is_an_error_at_once(background):
    with pytest.raises(CheckpointError, match=r"network is a builtins\.object"):
        background.write({"network": object()})
    background.wait()
    assert not background.directory.exists()


@pytest.mark.parametrize("read", [read_checkpoint, read_newest])
def test_readers_of_this_process_wait(background, gate, read):
    background.write(state_of(1))
    threading.Timer(0.05, gate.set).start()
    assert read(background.directory).state["progress"]["epoch"] == 1
    wait_for_writes(background.directory)
    assert background.directory.resolve() not in async_writer._UNDER_WAY


def test_readers_of_what_is_kept_beside_wait_too(tmp_path, gate):
    last = tmp_path / "last"
    background = BackgroundWriter(last, lambda manifest: Retention().apply(last, manifest))
    info = {"epoch": 1, "reason": "epoch", "monitor": "loss", "mode": "min", "score": 0.5}
    background.write(state_of(1), info=info)
    threading.Timer(0.2, gate.set).start()

    assert_holds(tmp_path / "best", 1)


def test_what_follows_is_called_with_the_manifest(tmp_path):
    seen = []
    background = BackgroundWriter(tmp_path / "last", seen.append)
    background.write(state_of(1), info={"epoch": 1})
    background.wait()
    assert [manifest.info for manifest in seen] == [{"epoch": 1}]


def test_the_settings_are_those_of_the_thread_that_trains(background):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        background.write(state_of(1))
        background.wait()
    finally:
        torch.set_num_threads(before)
    assert Manifest.read(background.directory).environment["threads"] == before + 1


def _wait_in_the_child(background, queue):
    background.wait()
    queue.put(background.is_busy)


def test_a_forked_process_has_nothing_to_wait_for(background, gate):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    background.write(state_of(1))
    child = context.Process(target=_wait_in_the_child, args=(background, queue))
    child.start()
    assert queue.get(timeout=20) is False
    child.join()
    assert background.is_busy  # here it still is


PROGRAM = """
import sys, torch
from clarion.checkpoints import writer
from clarion.checkpoints.async_writer import BackgroundWriter
if sys.argv[2] == "fails":
    writer.save_file = lambda *args: [][1]
BackgroundWriter(sys.argv[1]).write({"network": {"w": torch.ones(300_000)}})
"""


def test_the_interpreter_does_not_end_before_the_write(tmp_path):
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "last", ""], check=True)
    assert read_checkpoint(tmp_path / "last").state["network"]["w"].sum() == 300_000


def test_an_error_that_nobody_can_ask_for_any_more_is_printed(tmp_path):
    done = subprocess.run(  # noqa: PLW1510  # that it failed is seen in what it printed
        [sys.executable, "-c", PROGRAM, tmp_path / "last", "fails"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "list index out of range" in done.stderr


def test_others_may_read_the_tensors_who_may_read_the_rest(background):
    background.write(state_of(1))
    background.wait()
    modes = {path.name: path.stat().st_mode for path in background.directory.iterdir()}
    assert len(set(modes.values())) == 1, modes
