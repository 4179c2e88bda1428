"""Processes that load data and may be killed."""

import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

__all__ = ["KILLS_OUTLIVED", "may_tell_of_death", "take_over_deaths", "the_dead"]

KILLS_OUTLIVED = 3
"""How often in a pass workers that were killed are replaced."""

_TORCHS_OWN = "_set_SIGCHLD_handler.<locals>.handler"
_SECONDS = 1.0


def take_over_deaths() -> None:
    """Let the death of a worker be an error where a batch is asked for, and nowhere else.

    torch has its error raised from whatever line the main thread is at when a worker dies, in the
    middle of an optimizer step for example. Without its signal handler the loader notices the
    death within seconds, when it waits for a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler: Any = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__qualname__", "") == _TORCHS_OWN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def may_tell_of_death(error: BaseException) -> bool:
    """Tell whether an error may be what is seen of the death of a worker.

    Besides torch's own that is whatever breaks off when a worker dies while it hands over a batch.
    """
    return isinstance(error, RuntimeError | OSError | EOFError)


def the_dead(workers: Sequence[BaseProcess]) -> str:
    """Return the numbers of the processes that have died, with how they did; empty if none has.

    Args:
        workers: The processes; one that is about to die is waited for, a second at most.
    """
    ended = wait([worker.sentinel for worker in workers], _SECONDS)
    for worker in workers:
        if worker.sentinel in ended:
            worker.join(_SECONDS)  # its files are closed before its exit code is there
    dead = [worker for worker in workers if worker.exitcode]
    return ", ".join(f"{worker.pid} (exit code {worker.exitcode})" for worker in dead)
