"""A callback made of functions."""

from collections.abc import Callable
from typing import Any

from clarion.arguments import checked_arguments
from clarion.callbacks.base import HOOKS, Callback

__all__ = ["LambdaCallback"]

_Hook = Callable[..., Any] | None


class LambdaCallback(Callback):
    """Calls the functions it was given, each with the arguments of its hook.

    Args:
        on_epoch_begin: Called as ``Callback.on_epoch_begin`` is; the same holds for the others.
        on_epoch_end: See there.
        on_train_batch_begin: See there.
        on_train_batch_end: See there.
        on_valid_batch_begin: See there.
        on_valid_batch_end: See there.
        on_test_batch_begin: See there.
        on_test_batch_end: See there.
        on_predict_batch_begin: See there.
        on_predict_batch_end: See there.
        on_train_begin: See there.
        on_train_end: See there.
        on_valid_begin: See there.
        on_valid_end: See there.
        on_test_begin: See there.
        on_test_end: See there.
        on_predict_begin: See there.
        on_predict_end: See there.
        on_backward_end: See there.
        on_optimizer_step_begin: See there.
        on_optimizer_step_end: See there.
        on_exception: See there.

    Example:
        >>> heard = LambdaCallback(on_epoch_end=lambda epoch_number, logs: print(logs["loss"]))
        >>> heard.on_epoch_end(1, {"loss": 0.25})
        0.25
    """

    @checked_arguments
    def __init__(
        self,
        *,
        on_epoch_begin: _Hook = None,
        on_epoch_end: _Hook = None,
        on_train_batch_begin: _Hook = None,
        on_train_batch_end: _Hook = None,
        on_valid_batch_begin: _Hook = None,
        on_valid_batch_end: _Hook = None,
        on_test_batch_begin: _Hook = None,
        on_test_batch_end: _Hook = None,
        on_predict_batch_begin: _Hook = None,
        on_predict_batch_end: _Hook = None,
        on_train_begin: _Hook = None,
        on_train_end: _Hook = None,
        on_valid_begin: _Hook = None,
        on_valid_end: _Hook = None,
        on_test_begin: _Hook = None,
        on_test_end: _Hook = None,
        on_predict_begin: _Hook = None,
        on_predict_end: _Hook = None,
        on_backward_end: _Hook = None,
        on_optimizer_step_begin: _Hook = None,
        on_optimizer_step_end: _Hook = None,
        on_exception: _Hook = None,
    ) -> None:
        arguments = locals()
        given = {hook: arguments[hook] for hook in HOOKS if arguments[hook] is not None}
        vars(self).update(given)  # CallbackList finds hooks in instances too
