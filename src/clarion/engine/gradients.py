"""Gradients from autograd at first hand."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.autograd.function import BackwardCFunction

__all__ = ["find_engine", "gradients_of", "is_all_there", "is_same", "owned"]

_COMPILED = "CompiledFunctionBackward"  # what torch.compile makes of a network
_stride, _place = Tensor.stride, Tensor.data_ptr
_ones: dict[tuple[torch.dtype, torch.device], Tensor] = {}


def gradients_of(loss: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradient of a loss for each parameter, None where it does not depend on it.

    Args:
        loss: The loss, of one element.
        parameters: Leaves that require a gradient.
    """
    if _run_backward is None or loss.ndim:
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    one = _ones.get((loss.dtype, loss.device))
    if one is None:
        one = _ones[loss.dtype, loss.device] = torch.ones_like(loss.detach())
    gradients: tuple[Tensor | None, ...] = _run_backward(
        (loss,), (one,), False, False, parameters, True, False
    )
    return gradients


def owned(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Return gradients that may be changed in place, each laid out as its parameter is.

    Autograd returns one tensor for several parameters whose gradients are equal, as those of a sum
    are, and what `gradients_of` begins with for a parameter that is added to the loss.

    Args:
        gradients: What `gradients_of` returned.
        parameters: What it was asked for.
    """
    taken = set(map(_place, _ones.values()))
    found: list[Tensor | None] = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        own = gradient
        if own is not None:
            if _place(own) in taken or _stride(own) != _stride(parameter):
                own = torch.empty_like(parameter, requires_grad=False).copy_(own)
            taken.add(_place(own))
        found.append(own)
    return found


def is_all_there(loss: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Tell whether gradients for these parameters are all that going back from a loss amounts to.

    They are not if it also leads to other leaves (parameters of another optimizer, inputs), or
    through a function of the user's own in Python, which may do anything: torch's reentrant
    checkpoints go back inside, and put gradients at parameters that the graph does not show.

    Args:
        loss: The loss; its graph may have been used already.
        parameters: Those of the optimizer.
    """
    first = object()  # what stands for the variable of a node that is no leaf
    known = {id(first), *map(id, parameters)}
    todo: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            if type(node).__name__ != _COMPILED:
                return False
        elif id(getattr(node, "variable", first)) not in known:
            return False
        todo += [function for function, _ in node.next_functions]
    return True


def is_same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are alike, bit for bit; nan is like nothing."""
    return one.dtype == other.dtype and torch.equal(one, other)


def find_engine() -> Callable[..., Any] | None:
    """Return what ``torch.autograd.grad`` calls, which costs a fifth less without it around.

    It is no public part of torch: if it is not there, or does not do what it did, None is returned,
    and ``torch.autograd.grad`` itself is called.
    """
    run: Any = getattr(getattr(Variable, "_execution_engine", None), "run_backward", None)
    try:
        with torch.enable_grad():
            leaf = torch.ones((), requires_grad=True)
            other = torch.ones((), requires_grad=True)
            found = run((leaf * 3.0,), (torch.ones(()),), False, False, (leaf, other), True, False)
        works = len(found) == 2 and found[0].item() == 3.0 and found[1] is None
    except Exception:
        return None
    return run if works and leaf.grad is None else None


_run_backward = find_engine()
