"""A whole train step as one compiled graph: forward, loss, gradients and update."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from clarion.checkpoints.random import preserved_random_state
from clarion.data.batch import Batch
from clarion.engine.direct import DirectUpdate
from clarion.engine.engine import Engine
from clarion.engine.kernels import Group, has_kernels
from clarion.engine.nonfinite import HostGuard, Unguarded
from clarion.engine.stage import Stage
from clarion.engine.step import Output, train_step
from clarion.metrics.blocks import is_small, lasting

__all__ = ["Compilation", "CompiledStep"]

_TIMED = 5  # steps of either way whose time is taken


@dataclass
class Compilation:
    """What a compiled step cost, and what it saves; ``str()`` of it is a sentence.

    Attributes:
        seconds: What compiling took.
        ordinary: The seconds of a step without it; nan if none was timed.
        compiled: The seconds of a step with it; nan if none was timed.
    """

    seconds: float = 0.0
    ordinary: float = math.nan
    compiled: float = math.nan

    @property
    def break_even(self) -> float:
        """After how many steps compiling has paid; infinity if never."""
        saved = self.ordinary - self.compiled
        return self.seconds / saved if saved > 0 else math.inf

    def __str__(self) -> str:
        told = f'compile="step" took {self.seconds:.1f} s to compile'
        if math.isnan(self.ordinary) or math.isnan(self.compiled):
            return f"{told}."
        times = f"a step takes {_short(self.compiled)} instead of {_short(self.ordinary)}"
        if math.isinf(self.break_even):
            return f"{told}; {times}: it does not pay here."
        return f"{told}; {times}: it pays after some {self.break_even:,.0f} steps."


class CompiledStep:
    """Takes train steps by one compiled graph, for batches of one kind; other steps are ordinary.

    The first step of each pass is ordinary, and so is that of a batch of another shape (the last
    one of a pass, often): a graph is for one shape. A step whose loss or gradients are not finite
    changes nothing, and is handed to the guard. Results are those of the ordinary step to rounding.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._core: _Core | None = None
        self._kind: tuple[Any, ...] | None = None
        self._gave_up = False
        self._told: set[str] = set()
        self._times: dict[str, list[float]] = {"ordinary": [], "compiled": []}
        self._seconds = 0.0

    @property
    def compilation(self) -> Compilation | None:
        """What was measured; None if nothing was compiled."""
        if self._core is None:
            return None
        ordinary, compiled = (min(times, default=math.nan) for times in self._times.values())
        return Compilation(self._seconds, ordinary, compiled)

    def suits(self, engine: Engine) -> bool:
        """Tell whether an engine's steps can be compiled; a warning says why not, once."""
        if self._gave_up:
            return False
        reason = _why_not(engine)
        if reason and reason not in self._told:
            self._told.add(reason)
            _warn(reason)
        return not reason

    def __call__(self, engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
        """Run a batch forward and backward, and update the weights."""
        update = engine.update
        assert isinstance(update, DirectUpdate)
        direct = update.direct
        kind = _kind(batch)
        if direct is None or self._gave_up or kind is None or not direct.is_current():
            return train_step(engine, batch, stage, number)
        if self._kind is None or len(self._times["ordinary"]) < _TIMED:
            return self._tried_out(engine, batch, stage, number, kind)
        if self._core is None or not self._core.is_of(direct.groups):
            self._core = self._made(engine, direct.groups)
        if kind != self._kind:
            return train_step(engine, batch, stage, number)
        return self._run(engine, update, batch, stage, number)

    def _made(self, engine: Engine, groups: Sequence[Group]) -> "_Core":
        loss = engine.objective.only_function
        assert loss is not None
        assert engine.update is not None
        guarded = not isinstance(engine.update.guard, Unguarded)
        self._times["compiled"].clear()
        return _Core(engine, loss.func, list(groups), guarded)

    def _run(
        self, engine: Engine, update: DirectUpdate, batch: Batch, stage: Stage, number: int
    ) -> Output:
        core, times = self._core, self._times["compiled"]
        assert core is not None
        target = batch.target if batch.lasts else batch.target.clone()
        update.prepare(None)
        fresh = not core.is_compiled
        start = perf_counter()
        try:
            loss, prediction, is_fine = core(batch.args, target)
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0][:200]
            self._give_up(f"they cannot be one graph. {type(error).__name__}: {told}")
            return train_step(engine, batch, stage, number)
        seconds = perf_counter() - start
        if fresh:
            self._seconds += seconds
        elif len(times) < 4 * _TIMED:
            times.append(seconds)
        batch.target = target
        metric = engine.objective.only_function
        assert metric is not None
        metric.note(loss, prediction, target)
        if is_small(prediction) and engine.metrics.only_adds_up and is_small(target):
            engine.metrics.wait(lasting(prediction), target)
        else:
            engine.metrics.update(prediction, target, batch.inputs)
        if is_fine is not None and not is_fine.item():
            update.clear()
            update.guard.watch(loss, batch, number)
            bad = [torch.full((), torch.nan)]
            show = partial(core.show_gradients, batch.args, target)
            update.guard.step(bad, update.optimizer, engine.precision, lambda: None, show)
        update.finish(engine.progress.step + 1)
        return Output(prediction, loss, loss)

    def _tried_out(
        self, engine: Engine, batch: Batch, stage: Stage, number: int, kind: tuple[Any, ...]
    ) -> Output:
        """Take an ordinary step, with its time, and see whether its kind can be compiled."""
        given = batch.target
        start = perf_counter()
        output = train_step(engine, batch, stage, number)
        self._times["ordinary"].append(perf_counter() - start)
        if engine.objective.takes_as_it_is(output.prediction, given):
            self._kind = self._kind or kind
        elif len(self._times["ordinary"]) >= _TIMED and self._kind is None:
            self._give_up(
                "the loss takes targets in another shape or dtype than they have. Pass them as it "
                'takes them; "mse", for example, in those of the prediction.'
            )
        return output

    def _give_up(self, reason: str) -> None:
        self._gave_up = True
        _warn(reason)


class _Core:
    """The function that is compiled, on the optimizer's own state."""

    def __init__(
        self, engine: Engine, judge: Callable[..., Tensor], groups: list[Group], guarded: bool
    ) -> None:
        self._groups = groups
        self._rates = [torch.tensor(float("nan")) for _ in groups]
        self._set: list[Any] = [None for _ in groups]
        self.is_compiled = False
        self._parameters = [p for group in groups for p in group.parameters]
        self._buffers = list(engine.network.buffers())
        self._scored = _scored_by(engine, judge, self._parameters)
        self._compiled = torch.compile(
            _step_of(self._scored, groups, self._buffers, guarded), fullgraph=True, dynamic=False
        )

    def is_of(self, groups: Sequence[Group]) -> bool:
        """Tell whether the function works on these parameters and states."""
        return len(groups) == len(self._groups) and all(
            one.is_like(other) for one, other in zip(groups, self._groups, strict=True)
        )

    def __call__(
        self, args: tuple[Any, ...], target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        for place, group in enumerate(self._groups):
            if group.options["lr"] != self._set[place]:  # a tensor, so that the graph stays
                self._set[place] = group.options["lr"]
                self._rates[place].fill_(self._set[place])
        if self.is_compiled:
            return self._compiled(args, target, self._rates)  # type: ignore[no-any-return]
        import torch._dynamo

        with torch._dynamo.config.patch(trace_autograd_ops=True):
            result = self._compiled(args, target, self._rates)
        self.is_compiled = True
        return result  # type: ignore[no-any-return]

    def show_gradients(self, args: tuple[Any, ...], target: Tensor) -> None:
        """Put the gradients of a batch at the parameters, and leave everything else as it is."""
        before = [buffer.clone() for buffer in self._buffers]
        with preserved_random_state():
            _, _, gradients = self._scored(args, target)
        for buffer, old in zip(self._buffers, before, strict=True):
            buffer.data.copy_(old)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


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

    def step(args: tuple[Any, ...], target: Tensor, rates: list[Tensor]) -> Any:
        before = [buffer.clone() for buffer in kept]
        loss, prediction, gradients = score(args, target)
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
        value = parameter
        if decay and options["decoupled_weight_decay"]:
            value = value * (1 - rate * decay)
        change = gradient
        if decay and not options["decoupled_weight_decay"]:
            change = change + decay * parameter
        mean = torch.lerp(first, change, 1 - beta1)
        square = beta2 * second + (1 - beta2) * change * change
        spread = (square / (1 - beta2**now)).sqrt() + options["eps"]
        _put(parameter, value - rate / (1 - beta1**now) * mean / spread, fine)
        _put(first, mean, fine)
        _put(second, square, fine)
        _put(step, now, fine)


_UPDATES = {"add": _sgd, "sgd": _sgd, "adam": _adam}


def _warn(reason: str) -> None:
    warnings.warn(f'compile="step" is left out, and steps are ordinary: {reason}', stacklevel=3)


def _why_not(engine: Engine) -> str:
    """Return why an engine's steps cannot be compiled; empty if they can."""
    update = engine.update
    if not isinstance(update, DirectUpdate) or engine.forward is not engine.network:
        return "the work is shared between several processes or devices, or measured."
    if engine.objective.only_function is None:
        return "it needs one loss, a function of the prediction and the target."
    if not isinstance(update.guard, Unguarded | HostGuard):
        return "the network is on a device, where it has not been tried."
    if update.shares_gradients:
        return "a callback or an option (clipping) looks at gradients."
    if not has_kernels(update.optimizer):
        return "the optimizer is none of SGD, Adam and AdamW."
    if not update.is_possible:
        return "a step has several batches, or evaluates or scales the loss several times."
    if any(group.get("maximize") for group in update.optimizer.param_groups):
        return "the optimizer maximises."
    return ""


def _kind(batch: Batch) -> tuple[Any, ...] | None:
    if not batch.is_plain:
        return None
    tensors = (*batch.args, batch.target)
    if not all(type(one) is Tensor for one in tensors):
        return None
    return tuple((one.shape, one.dtype) for one in tensors)


def _short(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
