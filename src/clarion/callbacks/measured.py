"""The weights that a validation measured, for callbacks that keep them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

__all__ = ["measured_weights"]


def measured_weights(model: Any) -> AbstractContextManager[Any]:
    """Return a context in which the network has the weights that validation measured.

    Those are the averaged weights if the model's optimization has ``average``, else the network's
    own.

    Args:
        model: A model, or a stand-in for one.
    """
    # Looked up in the class: a mock would answer to any name.
    if hasattr(type(model), "averaged_weights"):
        context: AbstractContextManager[Any] = model.averaged_weights()
        return context
    return nullcontext()
