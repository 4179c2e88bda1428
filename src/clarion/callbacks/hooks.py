"""The table of the hooks that somebody overrides, and the calls to them."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from clarion.callbacks.base import ADDED_HOOKS, HOOKS, Callback
from clarion.errors import InvalidTypeError, suggestion

if TYPE_CHECKING:
    from clarion.model import Model

__all__ = ["CallbackList", "holds", "with_inner"]

_INSIDE = (
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_valid_begin",
    "on_valid_batch_begin",
    "on_valid_batch_end",
    "on_valid_end",
    "on_backward_end",
    "on_optimizer_step_begin",
    "on_optimizer_step_end",
)
"""The hooks that are called while a train pass is under way."""

_NAMED_ELSEWHERE = {
    "on_batch_begin": "on_train_batch_begin",
    "on_batch_end": "on_train_batch_end",
    "on_train_epoch_start": "on_epoch_begin",
    "on_train_epoch_end": "on_epoch_end",
}
"""What Keras and Lightning call hooks whose nearest name here means another one."""


class CallbackList(Callback):
    """Several callbacks as one: each hook calls theirs in the order of the list.

    ``name in callbacks`` tells whether any of them overrides the hook ``name``;
    ``callbacks.fire(name, ...)`` calls those that do. Anything with the methods of ``Callback``
    is accepted, mocks included.

    Args:
        callbacks: The callbacks, in the order in which they are called.
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self.callbacks = list(callbacks)
        self._table: dict[str, list[Callable[..., Any]]] = {}
        for callback in self.callbacks:
            self._enter(callback)

    def append(self, callback: Callback) -> None:
        """Add a callback at the end."""
        self.callbacks.append(callback)
        self._enter(callback)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    def __len__(self) -> int:
        return len(self.callbacks)

    def __contains__(self, hook: str) -> bool:
        return hook in self._table

    @property
    def acts_inside(self) -> bool:
        """Whether some callback may read gradients or change weights inside a train pass."""
        return any(map(_acts_inside, self.callbacks))

    def only_at_times(self, hook: str) -> Callable[[int], bool] | None:
        """Return what tells of a batch whether anybody wants to hear its hook at all.

        None if somebody wants every batch. A callback that does not has a method
        ``is_due(batch_number)`` in its own class, which hears of each batch instead.
        """
        listeners: list[Any] = [one for one in self.callbacks if _overrides(one, hook)]
        if len(listeners) != 1 or "is_due" not in vars(type(listeners[0])):
            return None
        if hook in getattr(listeners[0], "__dict__", {}):  # somebody put another one in its place
            return None
        is_due: Callable[[int], bool] = listeners[0].is_due
        return is_due

    def fire(self, hook: str, *args: Any) -> None:
        """Call ``hook`` of every callback that overrides it."""
        for method in self._table.get(hook, ()):
            method(*args)

    def announce(self, error: BaseException) -> None:
        """Call ``on_exception`` of every callback, the later ones even if an earlier one fails.

        The run's own error is what the user has to see, so failures here are added to it as notes.
        """
        for method in self._table.get("on_exception", ()):
            try:
                method(error)
            except Exception as failure:
                error.add_note(f"on_exception of a callback failed too: {failure!r}")

    def on_exception(self, error: BaseException) -> None:
        """Call ``on_exception`` of every callback; see ``announce``."""
        self.announce(error)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the callbacks that have one, by their place in the list."""
        return {place: callback.state_dict() for place, callback in self._stateful()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; a callback that it does not know starts afresh."""
        for place, callback in self._stateful():
            if place in state:
                callback.load_state_dict(state[place])

    def set_params(self, params: dict[str, Any]) -> None:
        """Hand the parameters of the run to every callback."""
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: "Model") -> None:
        """Hand the model to every callback."""
        self.model = model
        for callback in self.callbacks:
            callback.set_model(model)

    def _stateful(self) -> Iterator[tuple[str, Any]]:
        for place, callback in enumerate(self.callbacks):
            if hasattr(type(callback), "load_state_dict"):  # a mock would answer to any name
                yield str(place), callback

    def _enter(self, callback: Callback) -> None:
        _check(callback)
        _warn_of_misspelt_hooks(callback)
        for hook in HOOKS:
            if _overrides(callback, hook):
                self._table.setdefault(hook, []).append(getattr(callback, hook))


def holds(callbacks: Iterable[Any], kind: type[Callback]) -> bool:
    """Tell whether some callback is of a kind, also inside another one such as DelayCallback."""
    return any(_is_a(callback, kind) for callback in with_inner(callbacks))


def with_inner(callbacks: Iterable[Any]) -> Iterator[Any]:
    """Yield callbacks, and after each those inside it.

    They are a CallbackList's, a DelayCallback's, and the scheduler of an LRSchedulerCheckpoint.
    """
    for callback in callbacks:
        yield callback
        inner = callback if _is_a(callback, CallbackList) else getattr(callback, "callbacks", None)
        if inner is not None and _is_a(inner, CallbackList):
            yield from with_inner(inner)
        scheduler = getattr(callback, "lr_scheduler", None)
        if _is_a(scheduler, Callback):
            yield scheduler


def _is_a(callback: object, kind: type[Callback]) -> bool:
    # Asked of the type: a mock of one says to be an instance of it.
    return issubclass(type(callback), kind)


def _forwarding(hook: str) -> Callable[..., None]:
    def forward(self: CallbackList, *args: Any, **kwargs: Any) -> None:
        for method in self._table.get(hook, ()):
            method(*args, **kwargs)

    forward.__name__ = hook
    forward.__doc__ = f"Call ``{hook}`` of every callback that overrides it."
    return forward


for _hook in HOOKS:
    if _hook not in vars(CallbackList):
        setattr(CallbackList, _hook, _forwarding(_hook))


def _check(callback: object) -> None:
    if isinstance(callback, type):
        raise InvalidTypeError(
            f"callbacks holds the class {callback.__name__}; it needs an object of it: "
            f"{callback.__name__}(...)."
        )
    if not hasattr(callback, "set_model") or not hasattr(callback, "set_params"):
        raise InvalidTypeError(
            f"callbacks holds {callback!r}, a {type(callback).__name__}; it needs objects of "
            "subclasses of clarion.Callback."
        )


def _overrides(callback: object, hook: str) -> bool:
    """Return whether calling ``hook`` of this callback would do anything."""
    if isinstance(callback, CallbackList):
        return hook in callback
    if hook in getattr(callback, "__dict__", {}):
        return True
    if not isinstance(callback, Callback) or type(callback).__module__ == "unittest.mock":
        return hasattr(type(callback) if hook in ADDED_HOOKS else callback, hook)
    return getattr(type(callback), hook) is not getattr(Callback, hook)


def _acts_inside(callback: object) -> bool:
    if isinstance(callback, CallbackList):
        return callback.acts_inside
    # Said by the class itself: one below it may do more, and so may a hook put on an object.
    own = getattr(callback, "__dict__", {})
    if vars(type(callback)).get("only_watches") is True and not any(h in own for h in _INSIDE):
        return False
    return any(_overrides(callback, hook) for hook in _INSIDE)


def _warn_of_misspelt_hooks(callback: object) -> None:
    if not isinstance(callback, Callback):
        return
    for name in dir(type(callback)):
        meant = _NAMED_ELSEWHERE.get(name, name)
        if name.startswith("on_") and name not in HOOKS and (hint := suggestion(meant, HOOKS)):
            warnings.warn(
                f"{type(callback).__name__} defines {name}, which is not a hook{hint} "
                "It will never be called under this name.",
                stacklevel=4,
            )
