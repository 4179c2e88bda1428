"""One training at a time in a directory."""

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Self
from weakref import WeakSet

from clarion.errors import CheckpointError, DirectoryInUseError

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None

__all__ = ["DirectoryLock"]

_CONTENT = 4096  # bytes that are read of the file at most
_PATIENCE = 1.0  # seconds


class DirectoryLock:
    """A lock on a directory, which ends with the process that holds it, however it ends.

    The file holds who has it, for the error that another one gets: ``pid``, ``host`` and
    ``since``. The operating system holds the lock itself, so that nothing has to be removed after
    a kill. Processes that the holder forks, such as those that load data, do not share it.

    Two hosts on a network file system may not see each other's locks. The file tells then: whoever
    comes later writes itself into it, with a warning if the one before had not let go, and the one
    before gets an error from its next ``check``. Without locks at all (Windows, some network file
    systems) that is all there is.

    Args:
        path: The file; its directories are made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: int | None = None
        self._mine = b""

    def acquire(self) -> Self:
        """Take the lock.

        Raises:
            DirectoryInUseError: If another training has it.
            CheckpointError: If the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self._take(self._file)
        except OSError as error:
            self._close()
            raise CheckpointError(
                f'"{self.path.parent}" cannot be written: {error.strerror or error}. A training '
                "keeps its checkpoints there. Choose another directory, or make it writable."
            ) from error
        except DirectoryInUseError:
            self._close()
            raise
        _HELD.add(self)
        return self

    def check(self) -> None:
        """Make sure that the lock is still this one's.

        Raises:
            DirectoryInUseError: If somebody else, on a host that does not see this lock, has begun
                to train in the directory.
        """
        if self._file is None:
            return
        found = _content_of(self._file)
        if found != self._mine:
            raise DirectoryInUseError(
                f'"{self.path.parent}" has been taken over by another training'
                f"{_told(found)}: this one ends here, without writing. Train in a directory of its "
                "own."
            )

    def release(self) -> None:
        """Let go; without the lock do nothing."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if _content_of(self._file) == self._mine:
                    os.ftruncate(self._file, 0)
        self._close()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _take(self, file: int) -> None:
        try:
            _flock(file)
        except BlockingIOError:
            found = _content_of(file)
            raise DirectoryInUseError(
                f'Another training uses "{self.path.parent}"{_told(found)}. Wait for it, end it, '
                "or train in another directory."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise  # those: a file system without locks
        self._warn_of(_content_of(file))
        content = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        self._mine = json.dumps(content).encode()
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, self._mine)
        os.fsync(file)

    def _warn_of(self, found: bytes) -> None:
        """Warn of a holder on another host that has not let go: it may have been killed, or not."""
        holder = _parsed(found)
        if holder and holder.get("host") != socket.gethostname():
            warnings.warn(
                f'"{self.path.parent}" was last used by a training{_told(found)}, which has not '
                "let go of it. It is taken to be dead, and ended if it is not: whether locks reach "
                "from that host to this one is not known.",
                stacklevel=4,
            )

    def _close(self) -> None:
        file, self._file = self._file, None
        _HELD.discard(self)
        if file is not None:
            os.close(file)


def _content_of(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)  # Windows has no os.pread
    return os.read(file, _CONTENT)


def _told(content: bytes) -> str:
    """Return who wrote the content of a lock, to go on a sentence."""
    holder = _parsed(content)
    if not holder:
        return ""
    return f": process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"


def _flock(file: int) -> None:
    """Lock a file, waiting a moment: a process that was killed lets go when its last thread ends.

    Raises:
        BlockingIOError: If another process holds it.
    """
    if _fcntl is None:
        return
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            _fcntl.flock(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


_HELD: WeakSet[DirectoryLock] = WeakSet()


def _let_go_in_child() -> None:
    # Without this a worker that outlives a killed training for some seconds would keep its lock.
    for lock in list(_HELD):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
