"""The only place that prints: on the first rank, and never at the cost of a training."""

import contextlib
import errno
import os
import shutil
import sys
from typing import Literal, TextIO

__all__ = [
    "StreamKind",
    "columns",
    "end_line",
    "is_first_rank",
    "is_in_jupyter_notebook",
    "say",
    "shout",
    "shows",
    "stream_kind",
    "supports_ansi",
    "write",
]

StreamKind = Literal["terminal", "file", "notebook", "other"]
"""What standard output is: a terminal, a file or pipe, a notebook, or an object in memory."""

_ERASE_LINE = "\r\033[K"


class _State:
    """What has to be remembered between two writes."""

    broken: TextIO | None = None
    """The stream whose reader has gone; nothing more is written to it."""
    unfinished: TextIO | None = None
    """The stream that the last text left in the middle of a line."""


def say(text: str) -> None:
    """Write a line to standard output, on the first rank only.

    A progress line that is being drawn makes way for it.
    """
    before = ""
    if _is_line_open():
        before = _ERASE_LINE if stream_kind() == "terminal" else "\n"
    write(f"{before}{text}\n")


def shout(text: str) -> None:
    """Write text to standard error at once, past all buffers, also from a signal handler."""
    if is_first_rank():
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.write(sys.stderr.fileno(), f"\n{text}".encode())


def end_line() -> None:
    """End the progress line that is being drawn, if there is one."""
    if _is_line_open():
        write("\n")


def write(text: str) -> None:
    """Write text to standard output and flush it, on the first rank only.

    Standard output is looked up at each call. If it cannot be written to (it is closed, the disk
    is full, its reader has gone), the text is dropped and nothing is raised: a training does not
    end because nobody listens. Characters that its encoding does not have are replaced.
    """
    stream = sys.stdout
    if not text or stream is None or stream is _State.broken or not is_first_rank():
        return
    try:
        _write_encodable(stream, text)
        if hasattr(stream, "flush"):
            stream.flush()
    except OSError as error:
        if error.errno in {errno.EPIPE, errno.EIO}:  # the reader, or the terminal, has gone
            _give_up(stream)
    except ValueError:
        if not getattr(stream, "closed", False):
            raise
    _State.unfinished = None if text.endswith("\n") else stream


def is_first_rank() -> bool:
    """Return whether this process is the one that prints: rank 0, or the only one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() == 0)
    return os.environ.get("RANK", "0") in {"0", ""}


def stream_kind() -> StreamKind:
    """Return what standard output is at this moment.

    An object that stands for it without a file descriptor (``io.StringIO``, a capture of a test)
    is ``"other"``.
    """
    stream = sys.stdout
    if stream is None:  # a Windows program without a console
        return "file"
    if type(stream).__module__.startswith("ipykernel"):
        return "notebook"
    try:
        if stream.isatty():
            return "terminal"
        stream.fileno()
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is an OSError
        return "notebook" if is_in_jupyter_notebook() else "other"
    return "file"


def is_in_jupyter_notebook() -> bool:
    """Return whether the program runs in a Jupyter or Colab notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ in {"ZMQInteractiveShell", "Shell"}


def columns() -> int:
    """Return the width of the terminal, in characters; 80 if it does not tell."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        width = os.get_terminal_size(sys.stdout.fileno()).columns
        if width > 0:
            return width
    return shutil.get_terminal_size().columns


def shows(text: str) -> bool:
    """Return whether the encoding of standard output has all characters of ``text``."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def supports_ansi() -> bool:
    """Return whether the terminal understands ANSI codes, switching them on where needed."""
    if os.environ.get("TERM") == "dumb":
        return False
    return os.name != "nt" or _enable_windows_ansi()


def _is_line_open() -> bool:
    return _State.unfinished is not None and _State.unfinished is sys.stdout


def _write_encodable(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))


def _give_up(stream: TextIO) -> None:
    """Send what is still buffered, and all that follows, nowhere.

    Without this the interpreter tries to write the rest when it ends, and fails with status 120.
    """
    _State.broken = stream
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def _enable_windows_ansi() -> bool:
    """Ask the Windows console to interpret ANSI codes; return whether it does."""
    import ctypes

    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  # exists on Windows only
    handle = kernel32.GetStdHandle(-11)  # STD_OUTPUT_HANDLE
    mode = ctypes.c_uint32()
    if not kernel32.GetConsoleMode(handle, ctypes.byref(mode)):
        return False
    return bool(kernel32.SetConsoleMode(handle, mode.value | 4))  # VIRTUAL_TERMINAL_PROCESSING
