"""Train and eval mode of all layers of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["mode"]


@contextmanager
def mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a network into train or eval mode inside, and every part of it back into its own."""
    # A frozen TorchScript module has none.
    modules = [module for module in network.modules() if hasattr(module, "training")]
    before = [module.training for module in modules]
    network.train(training)
    try:
        yield
    finally:
        for module, was_training in zip(modules, before, strict=True):
            module.training = was_training
