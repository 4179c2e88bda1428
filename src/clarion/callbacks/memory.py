"""Callbacks whose memory starts anew with each training and follows a checkpoint."""

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
    stays.
    """

    _resumed = False

    @abstractmethod
    def fresh_memory(self) -> dict[str, Any]:
        """Return the attributes that are remembered, with their values before a training."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered."""
        return {name: getattr(self, name) for name in self.fresh_memory()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what ``state_dict`` returned; the next training goes on from there.

        Raises:
            CheckpointError: If ``state`` belongs to something else.
        """
        names = list(self.fresh_memory())
        check_keys(self, state, names)
        vars(self).update({name: state[name] for name in names})
        self._resumed = True

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Forget the training before, unless this one resumes."""
        if not self._resumed:
            vars(self).update(self.fresh_memory())
        self._resumed = False


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
