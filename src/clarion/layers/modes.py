"""Modes that networks run in: train, eval, inference."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from clarion.data.nested import torch_apply

__all__ = ["Inference", "hooks_on", "keeps_nothing", "mode"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TORCH = "torch.nn.modules."
_global_hooks = [getattr(torch_module, "_global" + name, None) for name in _HOOKS]


@dataclass(slots=True, eq=False)
class _Visit:
    """A mode that a network is in for one or several threads.

    Attributes:
        training: Which mode.
        before: The mode of each layer before.
        threads: Those that are inside.
    """

    training: bool
    before: list[tuple[nn.Module, bool]]
    threads: set[int] = field(default_factory=set)


_visits: WeakKeyDictionary[nn.Module, list[_Visit]] = WeakKeyDictionary()
_door = Lock()


@contextmanager
def mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a network into train or eval mode inside, and every part of it back into its own.

    Of several threads that want the same mode at once the last one puts it back: otherwise the
    first would have the others go on in another one.
    """
    me = get_ident()
    with _door:
        visits = _visits.setdefault(network, [])
        visit = visits[-1] if visits else None
        if visit is None or visit.training is not training or me in visit.threads:
            visit = _Visit(training, _modes_of(network))
            visits.append(visit)
        visit.threads.add(me)
    try:
        network.train(training)
        yield
    finally:
        with _door:
            visit.threads.remove(me)
            if not visit.threads:
                _end(visits, visit)


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


def _end(visits: list[_Visit], visit: _Visit) -> None:
    """Put the modes of before a visit back, or leave that to the one that began after it."""
    position = visits.index(visit)
    visits.remove(visit)
    if position < len(visits):
        visits[position].before = visit.before
        return
    for module, was_training in visit.before:
        module.training = was_training


def _modes_of(network: nn.Module) -> list[tuple[nn.Module, bool]]:
    # A frozen TorchScript module has none.
    modules = [module for module in network.modules() if hasattr(module, "training")]
    return [(module, module.training) for module in modules]
