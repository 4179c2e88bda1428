"""A function as a layer."""

from collections.abc import Callable
from typing import Any

from torch import nn

from clarion.errors import InvalidTypeError

__all__ = ["Lambda"]


class Lambda(nn.Module):
    """A layer that calls a function, for use in ``torch.nn.Sequential``.

    Args:
        func: What is called with the layer's inputs; its result is the layer's output.

    Raises:
        InvalidTypeError: If ``func`` cannot be called.

    Example:
        >>> import torch
        >>> Lambda(lambda x: x.flatten(1))(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        super().__init__()
        if not callable(func):
            raise InvalidTypeError(
                f"Lambda takes a function; got {func!r}, a {type(func).__name__}."
            )
        self.func = func

    def forward(self, *x: Any) -> Any:
        """Return what the function returns for these inputs."""
        return self.func(*x)

    def extra_repr(self) -> str:
        """Return the function's name, for printing the network."""
        return getattr(self.func, "__name__", repr(self.func))
