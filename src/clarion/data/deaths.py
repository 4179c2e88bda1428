"""Processes that load data and may be killed."""

import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

__all__ = [
    "KILLS_OUTLIVED",
    "ends_though_killed",
    "may_tell_of_death",
    "take_over_deaths",
    "the_dead",
]

KILLS_OUTLIVED = 3
"""How often in a pass workers that were killed are replaced."""

_TORCHS_OWN = "_set_SIGCHLD_handler.<locals>.handler"
_SECONDS = 1.0
_SHOWN = 32  # rows of a batch
_BATCHES = 2  # that a worker may have died at: one it has made may not have reached the loader


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


def the_dead(workers: Sequence[BaseProcess], asked_of: Callable[[int], list[Any]]) -> str:
    """Return which processes have died, how, and what they were to load; empty if none has.

    Args:
        workers: The processes; one that is about to die is waited for, a second at most.
        asked_of: Returns the indices of the batches that a worker, by its place among them, has
            not given yet, in their order.
    """
    if not workers:
        return ""
    ended = wait([worker.sentinel for worker in workers], _SECONDS)
    for worker in workers:
        if worker.sentinel in ended:
            worker.join(_SECONDS)  # its files are closed before its exit code is there
    return ", ".join(
        f"{worker.pid} (exit code {worker.exitcode}{_described(asked_of(place))})"
        for place, worker in enumerate(workers)
        if worker.exitcode
    )


def ends_though_killed(iterator: Any) -> None:
    """Let the workers of a ``DataLoader`` come to their end though one of them was killed.

    Args:
        iterator: What its ``iter()`` returned.
    """
    event = getattr(iterator, "_workers_done_event", None)
    if hasattr(event, "_cond"):
        iterator._workers_done_event = _End(event, iterator._workers)


class _End:
    """The event that tells workers of their end, as torch (2.13) sees it.

    Who asks for an event holds its lock for a moment. A worker that is killed in that moment holds
    it for ever, and setting the event would wait as long.
    """

    def __init__(self, event: Any, workers: Sequence[BaseProcess]) -> None:
        self._event = event
        self._workers = workers
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._event._cond.acquire(True, _SECONDS):
            self._event._cond.release()
            self._event.set()
            return
        for worker in self._workers:  # they wait for that lock, too
            worker.kill()


def _described(batches: list[Any]) -> str:
    told = ", then ".join(map(_rows, batches[:_BATCHES]))
    return f"; it was to load {told}" if told else ""


def _rows(indices: Any) -> str:
    rows = list(indices) if isinstance(indices, Iterable) else [indices]
    shown = ", ".join(map(str, rows[:_SHOWN]))
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"{'rows' if len(rows) > 1 else 'row'} {shown}{more}"
