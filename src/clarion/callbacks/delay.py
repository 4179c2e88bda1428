"""Let callbacks sleep through the beginning of a training."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clarion.callbacks.base import HOOKS, Callback
from clarion.callbacks.hooks import CallbackList
from clarion.callbacks.memory import RememberingCallback, check_keys

if TYPE_CHECKING:
    from clarion.model import Model

__all__ = ["DelayCallback"]

_SINCE_ALWAYS = frozenset(
    {
        "on_train_begin",
        "on_train_end",
        "on_epoch_begin",
        "on_epoch_end",
        "on_train_batch_begin",
        "on_train_batch_end",
        "on_backward_end",
    }
)
"""The hooks that Poutyne's ``DelayCallback`` forwards. The others go to those callbacks only whose
class defines them, so that a mock records the calls that it would record there."""


class DelayCallback(RememberingCallback):
    """Forwards hooks to other callbacks once some epochs, or train batches, are done.

    With both delays, both have to be over. When that happens inside an epoch the callbacks get
    ``on_epoch_begin`` first. The hooks of validations wait like those of training. The beginning
    and the end of the training, errors, evaluations and predictions are always forwarded.

    Args:
        callbacks: One callback or several.
        epoch_delay: Sleep until epoch ``epoch_delay + 1``.
        batch_delay: Sleep until batch ``batch_delay + 1``, counted over all epochs of a training.

    Attributes:
        callbacks: The callbacks, as a ``CallbackList``.
    """

    def __init__(
        self,
        callbacks: Callback | Iterable[Callback],
        *,
        epoch_delay: int | None = None,
        batch_delay: int | None = None,
    ) -> None:
        if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
            callbacks = [callbacks]
        self.callbacks = CallbackList(callbacks)
        self.epoch_delay = epoch_delay or 0
        self.batch_delay = batch_delay or 0
        self._epoch = 0
        self._batches = 0
        self._awake = False

    def fresh_memory(self) -> dict[str, Any]:
        """Return the memory before a training: nothing counted, asleep."""
        return {"_epoch": 0, "_batches": 0, "_awake": False}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and the states of the callbacks by their place in the list."""
        return {**super().state_dict(), "callbacks": self.callbacks.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned, for the callbacks too."""
        check_keys(self, state, ["callbacks"])
        super().load_state_dict(state)
        self.callbacks.load_state_dict(state["callbacks"])

    def has_delay_passed(self) -> bool:
        """Return whether both delays are over."""
        batches_done = not self.batch_delay or self._batches > self.batch_delay
        return self._epoch > self.epoch_delay and batches_done

    def set_params(self, params: dict[str, Any]) -> None:
        """Hand the parameters of the run to the callbacks."""
        self.params = params
        self.callbacks.set_params(params)

    def set_model(self, model: "Model") -> None:
        """Hand the model to the callbacks."""
        self.model = model
        self.callbacks.set_model(model)

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Fall asleep, and forward the hook."""
        super().on_train_begin(logs)
        self._forward("on_train_begin", logs)

    def on_epoch_begin(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Forward the hook if the delay is over."""
        self._epoch = epoch_number
        self._awake = self.has_delay_passed()
        if self._awake:
            self._forward("on_epoch_begin", epoch_number, logs)

    def on_train_batch_begin(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Count the batch and forward the hook if the delay is over."""
        self._batches += 1
        if not self._awake and self.has_delay_passed():
            self._awake = True
            self._forward("on_epoch_begin", self._epoch, {})
        if self._awake:
            self._forward("on_train_batch_begin", batch_number, logs)

    def on_exception(self, error: BaseException) -> None:
        """Forward the hook, to the later callbacks even if an earlier one fails."""
        self.callbacks.announce(error)

    def _forward(self, hook: str, *args: Any) -> None:
        if hook in _SINCE_ALWAYS:
            self.callbacks.fire(hook, *args)
            return
        for callback in self.callbacks:
            if _defines(callback, hook):
                getattr(callback, hook)(*args)


def _defines(callback: object, hook: str) -> bool:
    """Return whether the class of ``callback``, or the object itself, has its own ``hook``."""
    own = getattr(type(callback), hook, None)
    return hook in vars(callback) or own not in (None, getattr(Callback, hook))


def _forwarding(hook: str, waits: bool) -> Callable[..., None]:
    def forward(self: DelayCallback, *args: Any) -> None:
        if self._awake or not waits:
            self._forward(hook, *args)

    forward.__name__ = hook
    forward.__doc__ = f"Forward the hook{' if the delay is over' if waits else ''}."
    return forward


_ALWAYS = ("on_train_end", "on_test", "on_predict")
for _hook in HOOKS:
    if _hook not in vars(DelayCallback):
        setattr(DelayCallback, _hook, _forwarding(_hook, waits=not _hook.startswith(_ALWAYS)))
