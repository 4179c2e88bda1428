"""The network of one rank, whose gradients meet those of the others."""

import contextlib
import gc
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clarion.data.nested import torch_apply
from clarion.layers.modes import mode

__all__ = ["Replica", "release_replicas"]

_ADVICE = (
    "Several ranks need a gradient of every parameter, at every step. Return only what the loss "
    "uses, and freeze what it does not use: parameter.requires_grad_(False)."
)

_replicas: "WeakSet[Replica]" = WeakSet()


def release_replicas() -> None:
    """Let go of what torch made for each network, which holds the process group."""
    for replica in list(_replicas):
        replica.release()
    gc.collect()  # torch's wrapper is part of a cycle


class Replica:
    """Runs a network, in torch's ``DistributedDataParallel`` while gradients are wanted.

    The wrapper is built at the first train batch, when lazy layers know their shapes, and again
    when parameters are frozen or set free, since torch knows only those that it began with.

    Args:
        network: The network.
        agree: Returns whether a flag is True on some rank.
        shared_randomness: Returns a context in which every rank draws the same.

    Attributes:
        closes_step: Whether gradients meet in the next backward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        agree: Callable[[bool], bool],
        shared_randomness: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        self.network = network
        self.closes_step = True
        self._agree = agree
        self._shared_randomness = shared_randomness
        self._wrapper: DistributedDataParallel | None = None
        self._parameters: list[nn.Parameter] = []
        self._trained: list[bool] | None = None
        self._device: torch.device | None = None
        _replicas.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        if not torch.is_grad_enabled():
            return self.network(*args, **kwargs)
        if self._is_stale():
            self._build(args, kwargs)
        wrapper = self._wrapper
        if wrapper is None:
            return self.network(*args, **kwargs)
        wrapper.require_backward_grad_sync = self.closes_step
        try:
            return wrapper(*args, **kwargs)
        except RuntimeError as error:
            if "finished reduction in the prior iteration" in str(error):
                error.add_note(_ADVICE)
            raise

    def release(self) -> None:
        """Give up torch's wrapper; another one is built when it is needed."""
        old, self._wrapper = self._wrapper, None
        if old is not None:
            # Its hooks on the parameters would send their gradients a second time.
            old._remove_autograd_hooks()
        self._trained = None

    def _is_stale(self) -> bool:
        known = self._parameters
        changed = [p.requires_grad for p in known] != self._trained
        return changed or _device_of(known) != self._device

    def _build(self, args: Any, kwargs: Any) -> None:
        self.release()
        # Lazy layers get their shapes, and draw their weights.
        with mode(self.network, training=False), self._shared_randomness():
            output = self.network(*args, **kwargs)
        self._parameters = list(self.network.parameters())
        self._trained = [p.requires_grad for p in self._parameters]
        self._device = _device_of(self._parameters)
        trained = {id(p) for p in self._parameters if p.requires_grad}
        some_unused = self._agree(bool(trained - _reached_from(output)))
        if trained:
            self._wrapper = DistributedDataParallel(
                self.network, find_unused_parameters=some_unused
            )
            # As an attribute: the argument is called differently from torch 2.13 on.
            self._wrapper.broadcast_buffers = False


def _reached_from(output: Any) -> set[int]:
    """Return the ids of the parameters that an output depends on."""
    waiting: list[Any] = []

    def begin(tensor: Tensor) -> Tensor:
        waiting.append(tensor.grad_fn)
        return tensor

    torch_apply(output, begin)
    seen, found = set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions)
    return found


def _device_of(parameters: list[nn.Parameter]) -> torch.device | None:
    return parameters[0].device if parameters else None
