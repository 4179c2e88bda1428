import errno
import io
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from clarion import console


@pytest.fixture
def replace_stdout(monkeypatch):
    """A function that replaces standard output; pytest would undo it if a fixture did."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(console._State, "unfinished", None)
    monkeypatch.setattr(console._State, "broken", None)

    def replace(stream):
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return replace


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_say_writes_a_line_to_the_standard_output_of_the_moment(replace_stdout):
    memory = replace_stdout(io.StringIO())
    console.say("one")
    second = io.StringIO()
    replace_stdout(second)
    console.say("two")
    assert (memory.getvalue(), second.getvalue()) == ("one\n", "two\n")


def test_write_flushes_at_once(tmp_path, replace_stdout):
    with open(tmp_path / "out.txt", "w") as file:
        replace_stdout(file)
        console.write("no newline")
        assert (tmp_path / "out.txt").read_text() == "no newline"


def test_only_rank_zero_of_the_environment_prints(replace_stdout, monkeypatch):
    memory = replace_stdout(io.StringIO())
    monkeypatch.setenv("RANK", "1")
    console.say("rank 1")
    monkeypatch.setenv("RANK", "0")
    console.say("rank 0")
    assert memory.getvalue() == "rank 0\n"


@pytest.mark.parametrize(("rank", "text"), [(0, "here\n"), (1, "")])
def test_the_process_group_knows_better_than_the_environment(
    replace_stdout, monkeypatch, rank, text
):
    memory = replace_stdout(io.StringIO())
    group = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: rank
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", group)
    monkeypatch.setenv("RANK", str(1 - rank))
    console.say("here")
    assert memory.getvalue() == text


def test_a_group_that_is_not_initialised_is_not_asked(replace_stdout, monkeypatch):
    replace_stdout(io.StringIO())
    group = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch.distributed", group)
    assert console.is_first_rank()


def test_printing_does_not_import_torch():
    code = "import clarion.console as c, sys; c.say('hello'); print('torch' in sys.modules)"
    assert _run(code).stdout == "hello\nFalse\n"


def test_a_closed_standard_output_is_no_error(replace_stdout):
    memory = replace_stdout(io.StringIO())
    memory.close()
    console.say("nobody listens")


def test_no_standard_output_is_no_error(replace_stdout):
    replace_stdout(None)
    console.say("nobody listens")
    assert console.stream_kind() == "file"


def test_a_reader_that_goes_away_does_not_end_the_program(tmp_path):
    code = (
        "import clarion.console as c, pathlib\n"
        "for number in range(20000): c.say(f'line {number}')\n"
        "print('the user prints too')\n"
        f"pathlib.Path({str(tmp_path / 'done')!r}).touch()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, "")
    assert (tmp_path / "done").exists()


class _Failing(io.StringIO):
    def __init__(self, number):
        super().__init__()
        self.number = number
        self.calls = 0

    def write(self, text):
        self.calls += 1
        raise OSError(self.number, "no")


@pytest.mark.parametrize(("number", "calls"), [(errno.EPIPE, 1), (errno.EIO, 1), (errno.ENOSPC, 2)])
def test_a_write_that_fails_is_dropped(replace_stdout, number, calls):
    stream = _Failing(number)
    replace_stdout(stream)
    console.say("one")
    console.say("two")  # a disk may have room again; a reader does not come back
    assert stream.calls == calls


def test_an_error_of_the_stream_itself_is_not_hidden(replace_stdout):
    class Wrong(io.StringIO):
        def write(self, text):
            raise ValueError("a bug in the stream")

    replace_stdout(Wrong())
    with pytest.raises(ValueError, match="a bug in the stream"):
        console.say("text")


def test_characters_that_the_encoding_lacks_are_replaced(replace_stdout):
    raw = io.BytesIO()
    replace_stdout(io.TextIOWrapper(raw, encoding="latin-1"))
    assert console.shows("é")
    assert not console.shows("█")
    console.say("é █")
    assert raw.getvalue() == "é ?\n".encode("latin-1")


def test_a_stream_without_flush_will_do(replace_stdout):
    texts = []
    replace_stdout(SimpleNamespace(write=texts.append))
    console.say("text")
    assert texts == ["text\n"]


def test_an_object_in_memory_is_neither_file_nor_terminal(replace_stdout):
    replace_stdout(io.StringIO())
    assert console.stream_kind() == "other"


def test_a_file_is_a_file(replace_stdout, tmp_path):
    with open(tmp_path / "out.txt", "w") as file:
        replace_stdout(file)
        assert console.stream_kind() == "file"


def test_a_stream_of_ipykernel_is_a_notebook(replace_stdout):
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    replace_stdout(stream)
    assert console.stream_kind() == "notebook"


def test_memory_within_a_notebook_counts_as_the_notebook(replace_stdout, monkeypatch):
    replace_stdout(io.StringIO())
    assert not console.is_in_jupyter_notebook()
    ipython = ModuleType("IPython")
    ipython.get_ipython = type("ZMQInteractiveShell", (), {})
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert console.is_in_jupyter_notebook()
    assert console.stream_kind() == "notebook"


@pytest.mark.skipif(os.name == "nt", reason="pseudo terminals are a thing of Unix")
def test_a_terminal_tells_its_width(replace_stdout):
    import fcntl
    import struct
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 57, 0, 0))
    with os.fdopen(slave, "w") as stream:
        replace_stdout(stream)
        assert (console.stream_kind(), console.columns()) == ("terminal", 57)
    os.close(master)


def test_without_a_terminal_the_width_is_that_of_the_environment(replace_stdout, monkeypatch):
    replace_stdout(io.StringIO())
    monkeypatch.setenv("COLUMNS", "33")
    assert console.columns() == 33


def test_a_dumb_terminal_understands_no_codes(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not console.supports_ansi()


def test_a_progress_line_on_a_terminal_makes_way(replace_stdout):
    terminal = Terminal()
    replace_stdout(terminal)
    console.write("\rStep: 1/2")
    console.say("message")
    console.say("another")
    assert terminal.getvalue() == "\rStep: 1/2\r\033[Kmessage\nanother\n"


def test_elsewhere_a_message_begins_on_its_own_line(replace_stdout):
    memory = replace_stdout(io.StringIO())
    console.write("\rStep: 1/2")
    console.say("message")
    assert memory.getvalue() == "\rStep: 1/2\nmessage\n"


def test_a_line_left_open_elsewhere_does_not_count(replace_stdout):
    replace_stdout(io.StringIO())
    console.write("\rStep: 1/2")
    memory = replace_stdout(io.StringIO())
    console.say("message")
    console.end_line()
    assert memory.getvalue() == "message\n"


def test_a_line_is_ended_once(replace_stdout):
    memory = replace_stdout(io.StringIO())
    console.write("\rStep: 1/2")
    console.end_line()
    console.end_line()
    assert memory.getvalue() == "\rStep: 1/2\n"


def _run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
