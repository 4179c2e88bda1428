"""Modes that networks run in: train, eval, inference."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from clarion.data.nested import torch_apply

__all__ = ["Inference", "hooks_on", "keeps_nothing", "mode"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TORCH = "torch.nn.modules."
_global_hooks = [getattr(torch_module, "_global" + name, None) for name in _HOOKS]


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


def hooks_on(modules: Sequence[nn.Module]) -> list[Any]:
    """Return the dicts of hooks that act when one of some modules is called.

    One that this version of torch does not tell is None.
    """
    return [*_global_hooks, *(vars(module).get(name) for module in modules for name in _HOOKS)]


def keeps_nothing(network: nn.Module) -> bool:
    """Tell whether nobody holds a tensor that a call of a network makes, but who called it.

    So it is with layers of torch's own as they are; a ``forward`` of another class, a hook or a
    parametrization may keep what it likes.
    """
    modules = list(network.modules())
    tensors = [*network.parameters(), *network.buffers()]
    return (
        all(map(_is_of_torch, modules))
        and all(type(tensor) in (nn.Parameter, Tensor) for tensor in tensors)
        and not any(hook is None or hook for hook in hooks_on(modules))
    )


class Inference:
    """Runs a network that keeps nothing in ``torch.inference_mode``, and returns ordinary tensors.

    What is made in that mode can never take part in a training. So the mode ends with the call, and
    what the network returns is copied: a loss, a metric or a callback may do with it what it likes.
    Where somebody hooks into the network all the same, it runs without the mode.

    Args:
        network: The network.

    Attributes:
        network: The same.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._hooks = hooks_on(list(network.modules()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns."""
        if any(self._hooks):
            return self.network(*args, **kwargs)
        with torch.inference_mode():
            output = self.network(*args, **kwargs)
        return torch_apply(output, Tensor.clone)


def _is_of_torch(module: nn.Module) -> bool:
    kind, own = type(module), vars(module)
    of_torch = kind.__module__.startswith(_TORCH) and kind.forward.__module__.startswith(_TORCH)
    return of_torch and "forward" not in own and "_compiled_call_impl" not in own
