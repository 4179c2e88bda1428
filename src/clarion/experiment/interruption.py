"""Signals that end a training after the step under way, with everything saved."""

import os
import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any, Protocol, Self

from clarion.console import say, shout
from clarion.engine.edges import EdgeCallback

__all__ = ["Interruption", "Paused"]

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
_PAUSE = getattr(signal, "SIGUSR1", None)  # Windows has none


class Paused(BaseException):
    """A training was left since it was asked to pause; never seen outside of an experiment.

    Attributes:
        name: The name of the signal.
        history: The logs of the epochs that were brought to an end.
    """

    def __init__(self, name: str, history: list[dict[str, Any]]) -> None:
        super().__init__(name)
        self.name = name
        self.history = history


class _Saving(Protocol):
    def save(self, reason: str) -> None: ...
    def finish(self) -> None: ...


class Interruption(EdgeCallback):
    """Saves and leaves a training when a signal asks for it, between two optimizer steps.

    Inside the ``with`` block SIGINT, SIGTERM and SIGUSR1 are taken over, in the main thread alone,
    and only where nobody else has taken them over. A second SIGINT or SIGTERM acts at once, as if
    it had not been taken over. Processes that are forked inside, which load data, leave SIGINT and
    SIGUSR1 to this one.

    After SIGINT the training ends with ``KeyboardInterrupt``, after SIGTERM with
    ``SystemExit(143)``, after SIGUSR1 with `Paused`.

    Args:
        checkpoint: What saves; it has to stand before this one among the callbacks.

    Attributes:
        has_left: Whether the training was left because of a signal.
    """

    def __init__(self, checkpoint: _Saving) -> None:
        self._checkpoint = checkpoint
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._requested: int | None = None
        self._history: list[dict[str, Any]] = []
        self.has_left = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._restore()
        # A signal that came after the last edge: the training is done, the program is to end.
        if self._requested is not None and (error is None or _tells_of_worker(error)):
            raise self._ending(self._requested) from error

    def at_edge(self, number: int) -> None:
        """Save and leave if that was asked for.

        Several ranks do so at the ends of epochs alone, where one checkpoint holds all of them.
        """
        if self._requested is not None and self.model.strategy.world_size == 1:
            self._checkpoint.save(self.name)
            self._leave()

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Leave if that was asked for; what is to be saved is being saved already."""
        self._history.append(logs)
        if self._is_asked():
            self._leave()

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Forget the epochs of a training before."""
        self._history = []

    @property
    def name(self) -> str:
        """The name of the signal that came; empty if none did."""
        return "" if self._requested is None else signal.Signals(self._requested).name

    def _is_asked(self) -> bool:
        """Tell whether some rank was asked to stop; all ranks give the same answer."""
        strategy = self.model.strategy
        if strategy.world_size == 1:
            return self._requested is not None
        if not strategy.agree(self._requested is not None):
            return False
        self._requested = max(strategy.gather(self._requested or 0))
        return True

    def _leave(self) -> None:
        assert self._requested is not None
        number, name = self._requested, self.name
        self._checkpoint.finish()
        self.model.strategy.agree(False)  # one that ends before rank 0 has saved would end the job
        progress = self.model.progress
        where = f"after epoch {progress.epoch}"
        if progress.batch:
            where = f"in epoch {progress.epoch + 1} after batch {progress.batch}"
        say(f"{name}: the training is saved {where}; the same call goes on from there.")
        self._requested, self.has_left = None, True
        raise self._ending(number)

    def _ending(self, number: int) -> BaseException:
        if number == signal.SIGINT:
            return KeyboardInterrupt()
        if number == _PAUSE:
            return Paused(signal.Signals(number).name, self._history)
        return SystemExit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                self._act(number)
            return
        if self._requested not in (None, _PAUSE) and number != _PAUSE:
            self._act(number)
            return
        if self._requested is None or number != _PAUSE:
            self._requested = number
        # A signal to the whole group ends the workers too, which must not be an error of this
        # process before it comes to an edge.
        if hasattr(signal, "SIGCHLD"):
            self._before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
        once_more = "" if number == _PAUSE else "; once more stops it at once"
        shout(f"{signal.Signals(number).name}: the training stops after this step{once_more}.\n")

    def _act(self, number: int) -> None:
        """Do what the signal would have done."""
        self._restore()
        signal.raise_signal(number)

    def _restore(self) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)


def _tells_of_worker(error: BaseException) -> bool:
    """Tell whether an error is that of a process that loaded data and was ended."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
