"""A whole train step as one compiled graph: forward, loss, gradients and update."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module

from clarion.data.batch import Batch
from clarion.engine.chained import ChainedStep
from clarion.engine.diagnosis import explain
from clarion.engine.direct import DirectUpdate
from clarion.engine.engine import Engine
from clarion.engine.graphs import StepGraph
from clarion.engine.kernels import DirectStep, has_kernels
from clarion.engine.nonfinite import HostGuard, Unguarded
from clarion.engine.stage import Stage
from clarion.engine.state import Progress
from clarion.engine.step import Output, train_step
from clarion.engine.tight import TightStep
from clarion.metrics.blocks import is_small, lasting

__all__ = ["Compilation", "CompiledStep"]

_TIMED = 5  # steps of either way whose time is taken
_PATIENCE = 10  # steps of other kinds, after which somebody has to be told
_NO_KIND = (
    "a batch has weights of its examples, goes to the network by names, or is not made of plain "
    "tensors."
)
_NO_KERNEL = (
    "the optimizer works without a fused kernel, as one that was made without fused=True does, "
    "amsgrad, or sparse gradients; or the loss depends on weights that are not the optimizer's."
)
_OTHER_KINDS = (
    "a graph is for batches of one shape, that of the first steps, and those that came after them "
    "have others. Give all batches the same shape, pad them to it, or leave compile out."
)


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
    one of a pass, often): a graph is for one shape. The step after it looks whether anything has
    changed that the graph depends on, and those after that only run the graph. A step whose loss or
    gradients are not finite changes nothing, and is handed to the guard. Results are those of the
    ordinary step to rounding. So the state tells which steps are ordinary: a training that is
    resumed takes the same ones in the same way.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._graph: StepGraph | None = None
        self._direct: DirectStep | None = None  # that of the pass under way
        self._tight: TightStep | None = None
        self._eager: Any = train_step  # what takes ordinary steps: as `fit` does without a graph
        self._has_company = True
        self._update: DirectUpdate | None = None  # that of the training under way
        self._kind: tuple[Any, ...] | None = None
        self._is_new = False  # whether no step of the training under way has told its kind
        self._missed = 0  # steps of other kinds, while there is no graph
        self._tried = 0  # steps that were ordinary to find out whether the kind can be compiled
        self._loaded: Mapping[str, Any] | None = None
        self._gave_up = False
        self._told: set[str] = set()
        self._times: dict[str, list[float]] = {"ordinary": [], "compiled": []}
        self._seconds = 0.0

    @property
    def compilation(self) -> Compilation | None:
        """What was measured; None if nothing was compiled."""
        if self._graph is None:
            return None
        ordinary, compiled = (min(times, default=math.nan) for times in self._times.values())
        return Compilation(self._seconds, ordinary, compiled)

    def suits(self, engine: Engine) -> bool:
        """Tell whether an engine's steps can be compiled; a warning says why not, once.

        To be asked at the beginning of each pass.
        """
        if self._gave_up:
            return False
        reason = _why_not(engine)
        if reason:
            self._tell(reason)
            return False
        self._tight = tight = TightStep.of(engine)
        self._eager = train_step if tight is None else ChainedStep.of(engine, tight) or tight
        assert isinstance(engine.update, DirectUpdate)
        self._has_company = engine.update.has_company
        self._begin(engine.update, engine.progress)
        return True

    def _begin(self, update: DirectUpdate, progress: Progress) -> None:
        """Begin a pass, or go on where a state was written in the middle of one."""
        state, self._loaded = self._loaded, None
        if update is not self._update:
            self._update, self._is_new, self._missed = update, True, 0
        if state is None or not progress.step:
            return
        self._kind, self._tried = _of_plain(state["kind"]), state["tried"]
        self._is_new = state["is_new"]
        if progress.batch and state["used"] is not None:
            update.go_on(state["used"])

    def state_dict(self) -> dict[str, Any]:
        """Return what decides about the steps to come, to be asked for between two of them."""
        if self._loaded is not None:
            return dict(self._loaded)
        direct = None if self._update is None else self._update.direct
        used = None if direct is None else list(direct.used)
        return {
            "kind": _to_plain(self._kind),
            "tried": self._tried,
            "is_new": self._is_new,
            "used": used,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state; the next training goes on with it."""
        self._loaded = state

    def __call__(self, engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
        """Run a batch forward and backward, and update the weights."""
        update = engine.update
        assert isinstance(update, DirectUpdate)
        direct = update.direct
        kind = _kind(batch)
        if direct is None or self._gave_up or kind is None or not direct.is_current():
            if kind is None:
                self._tell(_NO_KIND)
            elif direct is None and update.was_refused and not engine.progress.skipped:
                self._tell(_NO_KERNEL)
            return self._ordinary(engine, batch, stage, number)
        if self._is_new:
            self._choose(kind)
        if self._kind is None or self._tried < _TIMED:
            return self._tried_out(engine, batch, stage, number, kind)
        if kind != self._kind:
            self._miss()
            return self._ordinary(engine, batch, stage, number)
        if direct is not self._direct:  # nobody but a schedule of the rate acts inside a pass
            self._begin_pass(engine, update, direct)
        start = perf_counter()
        known = self._graph is not None and self._graph.is_direct
        output = self._run(engine, update, batch, stage, number)
        if known and len(self._times["compiled"]) < 4 * _TIMED:
            self._times["compiled"].append(perf_counter() - start)
        return output

    def _choose(self, kind: tuple[Any, ...]) -> None:
        """Take the kind of batches that a new training has, if it is another one."""
        self._is_new = False
        if kind != self._kind:
            self._kind, self._tried = None, 0
            self._times = {"ordinary": [], "compiled": []}

    def _miss(self) -> None:
        """Tell, once it is plain, that nothing is compiled since batches are of other kinds."""
        if self._graph is None:
            self._missed += 1
            if self._missed == _PATIENCE:
                self._tell(_OTHER_KINDS)

    def _ordinary(self, engine: Engine, batch: Batch, stage: Stage, number: int) -> Output:
        if self._graph is not None:
            self._graph.look_again()
        output: Output = self._eager(engine, batch, stage, number)
        return output

    def _begin_pass(self, engine: Engine, update: DirectUpdate, direct: DirectStep) -> None:
        """Make a graph for the weights, states and options as they are, if there is none."""
        self._direct = direct
        update.release(direct)
        loss = engine.objective.only_function
        assert loss is not None
        needs = engine, loss.func, list(direct.groups), not isinstance(update.guard, Unguarded)
        if self._graph is None or not self._graph.takes_over(*needs):
            self._times["compiled"].clear()
            self._graph = StepGraph(*needs)

    def _run(
        self, engine: Engine, update: DirectUpdate, batch: Batch, stage: Stage, number: int
    ) -> Output:
        graph = self._graph
        assert graph is not None
        target = batch.target if batch.lasts else batch.target.clone()
        if self._has_company:
            update.prepare(None)
        before, start = graph.compilations, perf_counter()
        try:
            loss, prediction, is_fine = graph(batch.args, target)
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0][:200]
            self._give_up(f"they cannot be one graph. {type(error).__name__}: {told}")
            return self._ordinary(engine, batch, stage, number)
        if graph.compilations > before:
            self._seconds += perf_counter() - start
        batch.target = target
        self._count(engine, batch, stage, number, prediction, loss, reads=is_fine is not None)
        if is_fine is not None and not is_fine.item():
            update.clear()
            update.guard.watch(loss, batch, number)
            bad = [torch.full((), torch.nan)]
            show = partial(graph.show_gradients, batch.args, target)
            update.guard.step(bad, update.optimizer, engine.precision, lambda: None, show)
        if self._has_company:
            update.finish(engine.progress.step + 1)
        else:
            engine.progress.step += 1
        return Output(prediction, loss, loss)

    def _count(
        self,
        engine: Engine,
        batch: Batch,
        stage: Stage,
        number: int,
        prediction: Tensor,
        loss: Tensor,
        *,
        reads: bool,
    ) -> None:
        value = loss.item() if reads else loss
        if self._tight is not None and is_small(prediction) and is_small(batch.target):
            self._tight.count(batch, stage, number, lasting(prediction), value)
            return
        metric = engine.objective.only_function
        assert metric is not None
        metric.note(value, prediction, batch.target, batch.size)
        try:
            engine.metrics.update(prediction, batch.target, batch.inputs, batch.size)
        except Exception as error:
            explain(error, f"metric {engine.metrics.failed}", stage, number, prediction, batch)
            raise

    def _tried_out(
        self, engine: Engine, batch: Batch, stage: Stage, number: int, kind: tuple[Any, ...]
    ) -> Output:
        """Take an ordinary step, with its time, and see whether its kind can be compiled."""
        given = batch.target
        start = perf_counter()
        output = self._ordinary(engine, batch, stage, number)
        self._times["ordinary"].append(perf_counter() - start)
        self._tried += 1
        if engine.objective.takes_as_it_is(output.prediction, given):
            self._kind = self._kind or kind
        elif self._tried >= _TIMED and self._kind is None:
            self._give_up(
                "the loss takes targets in another shape or dtype than they have. Pass them as it "
                'takes them; "mse", for example, in those of the prediction.'
            )
        return output

    def _tell(self, reason: str) -> None:
        if not (self._gave_up or reason in self._told):
            self._told.add(reason)
            _warn(reason)

    def _give_up(self, reason: str) -> None:
        self._gave_up = True
        _warn(reason)


def _warn(reason: str) -> None:
    warnings.warn(f'compile="step" is left out, and steps are ordinary: {reason}', stacklevel=3)


def _why_not(engine: Engine) -> str:
    """Return why an engine's steps cannot be compiled; empty if they can."""
    update = engine.update
    if not isinstance(update, DirectUpdate) or engine.forward is not engine.network:
        return "the work is shared between several processes or devices, or measured."
    if module._has_any_global_hook():
        return "somebody hooked into the calls of all modules."
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
    return tuple([(one.shape, one.dtype, one.stride()) for one in tensors])


def _to_plain(kind: tuple[Any, ...] | None) -> list[Any] | None:
    """Return a kind as lists, words and numbers, as a file holds it."""
    if kind is None:
        return None
    return [[list(shape), str(dtype), list(stride)] for shape, dtype, stride in kind]


def _of_plain(kind: Sequence[Any] | None) -> tuple[Any, ...] | None:
    if kind is None:
        return None
    return tuple(
        [
            (torch.Size(shape), getattr(torch, dtype.removeprefix("torch.")), tuple(stride))
            for shape, dtype, stride in kind
        ]
    )


def _short(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
