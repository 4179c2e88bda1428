"""Train steps as graphs: what is compiled, and how a graph is called."""

import math
from collections.abc import Callable, Sequence
from operator import is_
from sys import getrefcount
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from clarion.checkpoints.random import preserved_random_state
from clarion.data.memory import version_of
from clarion.engine.engine import Engine
from clarion.engine.kernels import Group

__all__ = ["Graph", "StepGraph"]

_IN_CPP = {"cpp_wrapper": True, "size_asserts": False}


class Graph:
    """A function of tensors, compiled, which can be called without what stands around the graph.

    `torch.compile` looks before each call whether anything has changed that the graph depends on,
    which takes longer than a small graph does. Called, an object of this class does that, and finds
    out which tensors go into the graph and which come out. If two calls in succession run the same
    graph on the same tensors beside those that are given, `direct` calls the graph itself: what a
    function changes and reads again would have led to another graph, or to another tensor.

    Args:
        function: The function, of a tuple of tensors that differ from call to call, and of a list
            of tensors that stay. It returns a tuple of tensors and None.

    Attributes:
        compilations: How often it was compiled.
        direct: Returns what the function returns for other tensors of the same shapes, dtypes and
            strides, as long as nothing else has changed; None if that is not known to be right.
    """

    def __init__(self, function: Callable[[tuple[Tensor, ...], list[Tensor]], Any]) -> None:
        self._compiled = torch.compile(
            _of_its_own(function), fullgraph=True, dynamic=False, backend=self._lowered
        )
        self._calls: list[tuple[Any, Any, Any]] = []
        self._before: list[Any] = []  # the graph of the last call, and what stays
        self._is_steady = False
        self.compilations = 0
        self.direct: Callable[[tuple[Tensor, ...]], list[Any]] | None = None

    def __call__(self, tensors: tuple[Tensor, ...], lasting: list[Tensor]) -> Any:
        """Call the function, which is compiled if it has to be."""
        import torch._dynamo

        self._calls.clear()
        before = _looks_of(tensors)
        # Not to look for hooks, as torch does not otherwise, would leave out those that come later.
        with torch._dynamo.config.patch(trace_autograd_ops=True, skip_nnmodule_hook_guards=False):
            result = self._compiled(tensors, lasting)
        found = _direct(*self._calls[0], tensors, result) if len(self._calls) == 1 else None
        self._calls.clear()
        # One that changes what it is given may be right for tensors that do not overlap alone; to
        # keep it is done in Python, beside the graph.
        if before != _looks_of(tensors):
            found = None
        direct, stays = found or (None, [])
        same = len(stays) == len(self._before) and all(map(is_, stays, self._before))
        self._before, self._is_steady = stays, same and direct is not None
        self.direct = direct if self._is_steady else None
        return result

    def look_again(self) -> None:
        """Have the next call look whether anything has changed.

        To be called when the function, or what it is made of, was called by somebody else.
        """
        self.direct = None
        if not self._is_steady:
            self._before = []

    def _lowered(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        """Compile a graph: what `torch.compile` calls."""
        self.compilations += 1
        run = _lower(graph, inputs)

        def noted(*inputs: Any) -> Any:
            outputs = run(*inputs)
            self._calls.append((run, inputs, outputs))
            return outputs

        return noted


class StepGraph:
    """A train step on the optimizer's own state, compiled.

    Args:
        engine: What a step works with.
        judge: The loss, a function of prediction and target.
        groups: What the optimizer's kernels work on.
        guarded: Whether a step is left out whose loss or gradients are not finite.
    """

    def __init__(
        self, engine: Engine, judge: Callable[..., Tensor], groups: list[Group], guarded: bool
    ) -> None:
        self._made_of, self._judge, self._guarded = groups, judge, guarded
        self._groups = groups  # the same, but for the objects that hold the options
        self._rates = [torch.tensor(torch.nan, dtype=_dtype_of_rate(group)) for group in groups]
        self._set: list[Any] = [None for _ in groups]
        self._parameters = [p for group in groups for p in group.parameters]
        self._buffers = list(engine.network.buffers())
        self._scored = _scored_by(engine, judge, self._parameters)
        self._graph = Graph(_step_of(self._scored, groups, self._buffers, guarded))

    @property
    def is_direct(self) -> bool:
        """Whether the graph is called without looking whether anything has changed."""
        return self._graph.direct is not None

    @property
    def compilations(self) -> int:
        """How often it was compiled."""
        return self._graph.compilations

    def look_again(self) -> None:
        """Have the next step look whether anything has changed that the graph depends on."""
        self._graph.look_again()

    def takes_over(
        self, engine: Engine, judge: Callable[..., Tensor], groups: list[Group], guarded: bool
    ) -> bool:
        """Tell whether the graph is one for what the class takes; if so, it goes on with that.

        Rates are read from the groups, whose options may be other objects than they were.
        """
        made_for = (self._judge, self._guarded, *self._buffers)
        wanted = (judge, guarded, *engine.network.buffers())
        same = len(made_for) == len(wanted) and all(map(is_, made_for, wanted))
        if not (same and len(groups) == len(self._made_of)):
            return False
        # The graph reads the options that it was made of, and torch looks whether they change.
        if not all(one.is_like(other) for one, other in zip(groups, self._made_of, strict=True)):
            return False
        self._groups = groups
        self._graph.look_again()
        return True

    def __call__(
        self, args: tuple[Any, ...], target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take a step; return the loss, the prediction and whether all was finite."""
        for place, group in enumerate(self._groups):
            if group.options["lr"] != self._set[place]:  # a tensor, so that the graph stays
                self._set[place] = group.options["lr"]
                self._rates[place].fill_(self._set[place])
        direct = self._graph.direct
        if direct is not None:
            return direct((*args, target))  # type: ignore[return-value]
        return self._graph((*args, target), self._rates)  # type: ignore[no-any-return]

    def show_gradients(self, args: tuple[Any, ...], target: Tensor) -> None:
        """Put the gradients of a batch at the parameters, and leave everything else as it is."""
        before = [buffer.clone() for buffer in self._buffers]
        with preserved_random_state():
            _, _, gradients = self._scored(args, target)
        for buffer, old in zip(self._buffers, before, strict=True):
            buffer.data.copy_(old)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


def _looks_of(tensors: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Return how often each tensor was changed in place, and how many hold it."""
    return [(version_of(tensor), getrefcount(tensor)) for tensor in tensors]


def _of_its_own(function: Any) -> Callable[..., Any]:
    """Return the same function with code of its own.

    torch counts by code how often it has compiled, and stops after some times: the ninth model of a
    cross-validation would go without a graph.
    """
    code, names = function.__code__.replace(), function.__globals__
    return FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)


def _lower(graph: Any, inputs: Any) -> Callable[..., Any]:
    """Return what runs a graph: all of it in C++ if that works here, which takes less time."""
    import torch._inductor

    compile_graph: Callable[..., Callable[..., Any]] = torch._inductor.compile
    try:
        return compile_graph(graph, inputs, _IN_CPP)
    except Exception:  # of the compiler, or of torch's way to it
        return compile_graph(graph, inputs)


def _direct(
    run: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    tensors: tuple[Tensor, ...],
    result: Sequence[Any],
) -> tuple[Callable[[tuple[Tensor, ...]], list[Any]], list[Any]] | None:
    """Return what calls a graph itself, as it was called for these tensors, and what stays.

    Args:
        run: What runs the graph.
        inputs: What went into it: of the tensors some, and what stays.
        outputs: What came out.
        tensors: The tensors that differ from call to call.
        result: What the function returned: outputs, or None.

    Returns:
        The graph stands first in what stays. None if the graph has other outputs as well, which
        Python puts somewhere, or if it cannot be told which tensor is which.
    """
    given = {id(tensor): place for place, tensor in enumerate(tensors)}
    places = [(at, given[id(one)]) for at, one in enumerate(inputs) if id(one) in given]
    came_out = {id(one): at for at, one in enumerate(outputs)}
    wanted = [came_out.get(id(one), -1) for one in result if one is not None]
    distinct = len(given) == len(tensors) and len({place for _, place in places}) == len(places)
    if not distinct or -1 in wanted or set(wanted) != set(came_out.values()):
        return None
    order = [None if one is None else came_out[id(one)] for one in result]
    stays = [None if id(one) in given else one for one in inputs]

    def direct(tensors: tuple[Tensor, ...]) -> list[Any]:
        filled = stays.copy()
        for at, place in places:
            filled[at] = tensors[place]
        outputs = run(*filled)
        return [None if at is None else outputs[at] for at in order]

    return direct, [run, *stays]


_Scored = Callable[[tuple[Any, ...], Tensor], tuple[Tensor, Tensor, Sequence[Tensor]]]


def _scored_by(
    engine: Engine, judge: Callable[..., Tensor], parameters: Sequence[Tensor]
) -> _Scored:
    network, arithmetic, widen = engine.network, engine.precision.arithmetic, engine.precision.widen

    def score(args: tuple[Any, ...], target: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        with arithmetic():
            output = network(*args)
        prediction = widen(output)
        loss = judge(prediction, target)
        return loss, prediction, torch.autograd.grad(loss, parameters)

    return score


def _step_of(
    score: _Scored, groups: list[Group], buffers: list[Tensor], guarded: bool
) -> Callable[..., Any]:
    kept = buffers if guarded else []

    def step(tensors: tuple[Tensor, ...], rates: list[Tensor]) -> Any:
        before = [buffer.clone() for buffer in kept]
        *args, target = tensors
        loss, prediction, gradients = score(tuple(args), target)
        with torch.no_grad():
            fine = _all_finite(loss, gradients) if guarded else None
            start = 0
            for group, rate in zip(groups, rates, strict=True):
                end = start + len(group.parameters)
                _UPDATES[group.kind](group, gradients[start:end], rate, fine)
                start = end
            for buffer, old in zip(kept, before, strict=True):
                _put(buffer, torch.where(_known(fine), buffer, old), None)
        return loss.detach(), prediction.detach(), fine

    return step


def _all_finite(loss: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    fine = torch.isfinite(loss).all()
    for gradient in gradients:
        fine = fine & torch.isfinite(gradient).all()
    return fine


def _known(fine: Tensor | None) -> Tensor:
    assert fine is not None
    return fine


def _put(old: Tensor, new: Tensor, fine: Tensor | None) -> None:
    old.copy_(new if fine is None else torch.where(fine, new, old))


def _sgd(group: Group, gradients: Sequence[Tensor], rate: Tensor, fine: Tensor | None) -> None:
    options = group.options
    momenta = group.states[0] if group.states else [None] * len(gradients)
    for parameter, gradient, momentum in zip(group.parameters, gradients, momenta, strict=True):
        change = gradient
        if options["weight_decay"]:
            change = change + options["weight_decay"] * parameter
        if momentum is not None:
            moved = options["momentum"] * momentum + (1 - options["dampening"]) * change
            change = change + options["momentum"] * moved if options["nesterov"] else moved
            _put(momentum, moved, fine)
        _put(parameter, parameter - rate * change, fine)


def _adam(group: Group, gradients: Sequence[Tensor], rate: Tensor, fine: Tensor | None) -> None:
    options = group.options
    (beta1, beta2), decay = options["betas"], options["weight_decay"]
    for parameter, gradient, first, second, step in zip(
        group.parameters, gradients, *group.states, strict=True
    ):
        now = step + 1
        exponent = now.to(rate.dtype)
        value = parameter
        if decay and options["decoupled_weight_decay"]:
            value = value * (1 - rate * decay)
        change = gradient
        if decay and not options["decoupled_weight_decay"]:
            change = change + decay * parameter
        mean = torch.lerp(first, change, 1 - beta1)
        square = beta2 * second + (1 - beta2) * change * change
        spread = (square / _one_less_power(beta2, exponent)).sqrt() + options["eps"]
        _put(parameter, value - rate / _one_less_power(beta1, exponent) * mean / spread, fine)
        _put(first, mean, fine)
        _put(second, square, fine)
        _put(step, now, fine)


def _one_less_power(base: float, exponent: Tensor) -> Tensor:
    """Return ``1 - base**exponent``, which loses most of its digits where the power is near 1."""
    return -torch.expm1(exponent * (math.log(base) if base else -math.inf))


def _dtype_of_rate(group: Group) -> torch.dtype:
    wide = any(parameter.dtype is torch.float64 for parameter in group.parameters)
    return torch.float64 if wide else torch.float32


_UPDATES = {"add": _sgd, "sgd": _sgd, "adam": _adam}
