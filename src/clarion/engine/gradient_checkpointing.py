"""Blocks of a network that compute their forward pass again instead of keeping its results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clarion.engine.gates import RunningStatistics
from clarion.errors import InvalidArgumentError, quoted, suggestion

__all__ = ["checkpoint_blocks"]

_MOST_NAMES = 8


def checkpoint_blocks(network: nn.Module, which: bool | str | Sequence[str]) -> None:
    """Make blocks of a network compute forward again during backward, when it trains.

    Gradients, random numbers and running statistics stay what they are.

    Args:
        network: The network; its blocks get a new ``forward``.
        which: False for none; True for the models of transformers in it, else for the children
            with parameters of its outermost ``nn.Sequential`` and ``nn.ModuleList``; or patterns
            of module names, as of files.

    Raises:
        InvalidArgumentError: If there is no such block.
    """
    if which is False:
        return
    if which is True:
        models = [m for m in network.modules() if hasattr(m, "gradient_checkpointing_enable")]
        if models:
            _switch_on(models[0])
            return
    blocks = _blocks(network) if which is True else _matching(network, which)
    if not blocks:
        names = [name for name, _ in network.named_modules() if name]
        raise InvalidArgumentError(
            "gradient_checkpointing=True finds no nn.Sequential and no nn.ModuleList in the "
            f"network. Name its blocks by patterns; its modules: {quoted(names[:_MOST_NAMES])}."
        )
    for block in blocks:
        if not isinstance(block.forward, _Checkpointed):
            block.forward = _Checkpointed(block, block.forward)


class _Checkpointed:
    """The forward of a block that keeps its inputs alone."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        self._block = block
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self._block.training and torch.is_grad_enabled()):
            return self._forward(*args, **kwargs)
        return checkpoint(
            self._forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs
        )

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _uncounted(self._block)


@contextmanager
def _uncounted(block: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: the first forward pass has counted the batch."""
    statistics = RunningStatistics(block)
    statistics.keep()
    try:
        yield
    finally:
        statistics.put_back()


def _switch_on(model: Any) -> None:
    """Use the switch of transformers; it is called otherwise from version 5 on."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _blocks(network: nn.Module) -> list[nn.Module]:
    if isinstance(network, nn.Sequential | nn.ModuleList):
        return [child for child in network if any(True for _ in child.parameters())]
    return [block for child in network.children() for block in _blocks(child)]


def _matching(network: nn.Module, which: str | Sequence[str]) -> list[nn.Module]:
    named = {name: module for name, module in network.named_modules() if name}
    chosen: set[str] = set()
    for pattern in [which] if isinstance(which, str) else which:
        matching = {name for name in named if fnmatchcase(name, pattern)}
        if not matching:
            hint = suggestion(pattern, named) or "."
            raise InvalidArgumentError(
                f'gradient_checkpointing="{pattern}" fits no module{hint} There are, for example: '
                f"{quoted(list(named)[:_MOST_NAMES])}."
            )
        chosen |= matching
    return [named[name] for name in named if name in chosen and not _is_inside(name, chosen)]


def _is_inside(name: str, chosen: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:depth]) in chosen for depth in range(1, len(parts)))
