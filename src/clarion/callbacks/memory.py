"""Callbacks whose memory starts anew with each training and follows a checkpoint."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from clarion.callbacks.base import Callback
from clarion.errors import CheckpointError, quoted

__all__ = ["RememberingCallback", "check_keys"]


class RememberingCallback(ABC, Callback):
    """A callback that remembers something from one epoch or batch to the next.

    Subclasses say in ``fresh_memory`` what that is. Each training begins with it, except one that
    resumes: there ``load_state_dict`` was called since the last training, and what it brought
    stays. What was remembered of another ``monitor`` or ``mode`` is not taken: a best accuracy is
    beyond any F-score, so that nothing would ever be better.
    """

    _resumed = False
    _misfit: str | None = None  # what the state that was loaded, and not taken, had watched

    @abstractmethod
    def fresh_memory(self) -> dict[str, Any]:
        """Return the attributes that are remembered, with their values before a training."""

    def _watched(self) -> dict[str, Any]:
        """Return the attributes that say what the memory is about; none if it watches nothing."""
        attributes = vars(self)
        if not attributes.get("save_best_only", True):
            return {}
        return {name: attributes[name] for name in ("monitor", "mode") if name in attributes}

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, and of what."""
        memory = {name: getattr(self, name) for name in self.fresh_memory()}
        return {**self._watched(), **memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what ``state_dict`` returned; the next training goes on from there.

        Raises:
            CheckpointError: If ``state`` belongs to something else.
        """
        names = list(self.fresh_memory())
        check_keys(self, state, names)
        own = self._watched()
        then = {name: state.get(name, value) for name, value in own.items()}
        self._resumed = then == own
        self._misfit = None if self._resumed else _told(then)
        if self._resumed:
            vars(self).update({name: state[name] for name in names})

    def accept_fresh_start(self) -> None:
        """Say nothing of a state that was not taken: whoever changed the monitor knows of it."""
        self._misfit = None

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Forget the training before, unless this one resumes."""
        if not self._resumed:
            vars(self).update(self.fresh_memory())
        if self._misfit is not None:
            warnings.warn(
                f"{type(self).__name__}({_told(self._watched())}) starts afresh: the training "
                f"that goes on had one with {self._misfit}, whose best value is of another kind.",
                stacklevel=3,
            )
        self._resumed, self._misfit = False, None


def check_keys(callback: Callback, state: Mapping[str, Any], names: list[str]) -> None:
    """Raise unless ``state`` has the entries that ``callback`` remembers.

    Raises:
        CheckpointError: If one is missing; entries of later versions are ignored.
    """
    missing = [name for name in names if name not in state]
    if missing:
        raise CheckpointError(
            f"The state for {type(callback).__name__} lacks {quoted(missing)}; it holds "
            f"{quoted(state) or 'nothing'}. Resume with the callbacks, in the order, of the "
            "training that saved it."
        )


def _told(watched: Mapping[str, Any]) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in watched.items())
