"""The callback that writes all of a training's state after each epoch, and inside of them."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from clarion.callbacks.base import Callback
from clarion.checkpoints.random import RandomState
from clarion.checkpoints.structure import encode
from clarion.console import is_first_rank
from clarion.data.order import LoaderState
from clarion.engine.edges import EdgeCallback, Interval
from clarion.engine.ranks import unite
from clarion.engine.state import TrainState
from clarion.errors import CheckpointError
from clarion.experiment.defaults import NOTHING, Monitor
from clarion.experiment.slot import CheckpointSlot
from clarion.experiment.verification import Goal, goal_of_training
from clarion.model import Model

__all__ = ["TrainingCheckpoint", "as_json", "options_of"]

_LONGEST_REASON = 200  # characters
_IMPLEMENTATION = frozenset({"foreach", "fused", "capturable", "differentiable"})


class TrainingCheckpoint(EdgeCallback):
    """Writes the training checkpoint after each epoch; it has to be the last of the callbacks.

    What the other callbacks remember is saved as it is after their ``on_epoch_end``. Inside an
    epoch it writes between two optimizer steps: when it is time, and when the training ends there,
    so that a later one goes on in the same epoch. The file is written in the background; it is
    waited for when the training ends, by an error too.

    Args:
        slot: Where the checkpoint stands.
        callbacks: The other callbacks of the training; those with a state are saved.
        loaders: What the data comes from: loaders, samplers, generators, or mappings of them.
        monitor: What decides which epoch is the best.
        every: When to write inside an epoch, see `Interval`.
    """

    def __init__(
        self,
        slot: CheckpointSlot,
        callbacks: Iterable[Callback],
        loaders: Iterable[Any] = (),
        monitor: Monitor = NOTHING,
        every: int | float | str | None = None,
    ) -> None:
        self._slot = slot
        self._callbacks = list(callbacks)
        self._loaders = LoaderState(loaders)
        self._monitor = monitor
        self._random: dict[str, Any] | None = None
        self._left_out: set[str] = set()
        self._interval = Interval("checkpoint_every", every)
        self._ended_inside = False
        self._edge = self._saved = 0  # optimizer steps at the last edge, and in the last checkpoint
        self._goal: Goal | None = None

    def state_of(self, model: Model) -> TrainState:
        """Return the parts of the training: the model's, and the loaders'."""
        state = model.train_state(self._callbacks)
        return TrainState({"loaders": self._loaders, **state.parts})

    def keep_random_state(self) -> None:
        """Begin the next training with the random states of this moment.

        Whatever the other callbacks draw until then changes nothing.
        """
        self._random = RandomState().state_dict()

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Put the random states back that were kept, and see what can be saved."""
        if self._random is not None:
            RandomState().load_state_dict(self._random)
            self._random = None
        self._without_misfits(self.state_of(self.model).parts["callbacks"].state_dict())
        self._interval.restart()
        self._ended_inside = False
        self._goal = goal_of_training()

    def at_edge(self, number: int) -> None:
        """Begin to write the checkpoint if it is time, or if the training ends in this epoch."""
        self._edge = self.model.progress.step
        self._slot.check()
        if self.model.strategy.world_size > 1:
            return  # each rank has sums of its own, and one of them writes
        if self._goal is not None:
            self._goal.look(self.model.progress, self._state)
        self._ended_inside = self.model.stop_immediately and number != self.params.get("steps")
        if self._ended_inside:
            self.save("end")
        elif self._interval.is_due(self.model.progress.step):
            self.save("interval")

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Begin to write the checkpoint, unless the training goes on inside the epoch."""
        if self._ended_inside:
            return
        if self._goal is not None:
            self._goal.look(self.model.progress, self._state)
        metric, mode = self._monitor.metric, self._monitor.mode
        score: dict[str, Any] = {}
        if metric is not None:
            value = logs.get(metric)
            # A callback may have put a tensor there, or a number of numpy, which JSON cannot hold.
            value = None if value is None else float(value)
            score = {"monitor": metric, "mode": mode, "score": value}
        self.save("epoch", **score)

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Wait for what is being written.

        Raises:
            CheckpointError: If the last try of a file has failed; the one before is kept.
        """
        self._slot.finish()

    def on_exception(self, error: BaseException) -> None:
        """Save if the error came between two optimizer steps; wait for what is being written.

        It did if train data could not be loaded and the batch before has closed its step. In the
        middle of a step there is no state to go on with: the last checkpoint stays.
        """
        step = self.model.progress.step
        is_clean = self.model._under_way.failed_at_edge and self._edge == step
        if is_clean and self._saved != step and self.model.strategy.world_size == 1:
            self.save(_reason(error))
        self._slot.wait()

    def save(self, reason: str, **more: Any) -> None:
        """Begin to write the checkpoint of this moment, on the first rank.

        Of several ranks all have to call it; inside an epoch only to leave the training, since it
        puts together what their metrics have gathered. If the checkpoint before could not be
        written, a warning says so.

        Args:
            reason: Why now, for the manifest: ``"epoch"`` for the end of one, ``"interval"`` for
                ``checkpoint_every``, ``"end"`` for a training that ends inside an epoch, the name
                of a signal, ``"exception: ..."`` for an error.
            **more: What the manifest shall tell besides.

        Raises:
            DirectoryInUseError: If another training has taken the directory.
        """
        if self.model.progress.batch:
            unite(self.model._metrics, self.model.strategy)
        if not is_first_rank():
            return
        state = self._state()
        progress = self.model.progress
        info = {
            "epoch": progress.epoch,
            "batch": progress.batch,
            "step": progress.step,
            "optimizer": type(self.model.optimizer).__name__,
            "options": options_of(self.model.optimizer),
            "reason": reason,
        }
        self._slot.write(state, info | more)
        self._saved = progress.step
        self._interval.restart()

    def _state(self) -> dict[str, Any]:
        state = self.state_of(self.model).state_dict()
        state["callbacks"] = self._without_misfits(state["callbacks"])
        return state

    def finish(self) -> None:
        """Wait for what is being written, the last one.

        Raises:
            CheckpointError: If it failed, or the last try of another file did.
        """
        self._slot.finish()

    def _without_misfits(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return the states that a checkpoint can hold; warn once of each that it cannot."""
        kept = {}
        for name, state in states.items():
            try:
                # To see whether it can be: the tensors themselves are not needed, nor copied.
                encode(state, f"callbacks[{name!r}]", lambda _, tensor: tensor)
            except CheckpointError as error:
                if name not in self._left_out:
                    warnings.warn(
                        f"The state of the callback {name} is left out of checkpoints, so that a "
                        f"resumed training starts it afresh: {error}",
                        stacklevel=2,
                    )
                self._left_out.add(name)
            else:
                kept[name] = state
        return kept


def options_of(optimizer: Any) -> dict[str, Any]:
    """Return the options that an optimizer was built with, as JSON gives them back.

    Schedules and callbacks change those of its groups, but not these. Tensors are left out, which
    would have to be waited for, and so is what chooses between implementations of one update.
    """
    defaults = getattr(optimizer, "defaults", None)
    if not isinstance(defaults, Mapping):
        return {}
    plain = {
        name: as_json(value) for name, value in defaults.items() if name not in _IMPLEMENTATION
    }
    return {name: value for name, value in plain.items() if _is_plain(value)}


def as_json(value: Any) -> Any:
    """Return an option as JSON gives it back: a tuple as a list."""
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _reason(error: BaseException) -> str:
    text = " ".join(f"exception: {type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
