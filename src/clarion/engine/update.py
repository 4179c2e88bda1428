"""The way from a loss to new weights."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clarion.callbacks.hooks import CallbackList
from clarion.data.batch import Batch
from clarion.distributed.single import Single
from clarion.distributed.strategy import Strategy
from clarion.engine.averaging import WeightAverage
from clarion.engine.clipping import ClipGradients
from clarion.engine.gates import nonfinite_gradients, present_gradients
from clarion.engine.nonfinite import Guard, Unguarded
from clarion.engine.parts import Again, Plan, UpdatePart
from clarion.engine.precision import Precision, ScaledMixed
from clarion.engine.state import Progress
from clarion.errors import InvalidArgumentError

__all__ = ["Update", "needs_closure"]


class Update:
    """Clears gradients, adds those of each batch's share, and steps the optimizer.

    Args:
        optimizer: The optimizer.
        precision: In which arithmetic gradients are made.
        hooks: The callbacks that hear of each optimizer step.
        progress: Where optimizer steps are counted.
        parts: What takes part in each step, in this order.
        guard: Who leaves out steps that are not finite; nobody if None.
        strategy: How ranks share the work; one process does it all if None.
        network: The network, of which the optimizer may have a part only; None if it has all.

    Attributes:
        window: The batches of the step under way, kept for those who evaluate the gradients more
            than once a step; None if nobody does.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        precision: Precision,
        hooks: CallbackList,
        progress: Progress,
        parts: Sequence[UpdatePart] = (),
        guard: Guard | None = None,
        strategy: Strategy | None = None,
        network: nn.Module | None = None,
    ) -> None:
        self.optimizer = optimizer
        self._network = network
        self._strategy = strategy or Single()
        self.guard: Guard = guard or Unguarded()
        self._precision = precision
        self._hooks = hooks
        self._progress = progress
        self._parts = list(parts)
        self._measures = [part for part in parts if isinstance(part, ClipGradients)]
        self._before = _overridden(self._parts, "before_step")
        self._after = _overridden(self._parts, "after_step")
        self._closure = needs_closure(optimizer)
        several = self._closure or any(part.reevaluates for part in self._parts)
        if several and isinstance(precision, ScaledMixed):
            raise InvalidArgumentError(
                'precision="fp16-mixed" scales the loss once a step, and this update evaluates it '
                'several times. Use precision="bf16-mixed" or "32".'
            )
        self.window: list[Batch] | None = [] if several else None
        self._loss: Any = 0.0

    def begin(self, plan: Plan) -> None:
        """Prepare for a training."""
        for part in self._parts:
            part.begin(plan)

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for the train pass of an epoch."""
        for part in self._parts:
            part.begin_epoch(epoch)

    def end_epoch(self, epoch: int) -> None:
        """Tell that the train pass of an epoch is done."""
        for part in self._parts:
            part.end_epoch(epoch)

    @property
    def average(self) -> WeightAverage | None:
        """The weight average, if there is one."""
        return next((part for part in self._parts if isinstance(part, WeightAverage)), None)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put averaged weights, if there are any, into the network inside."""
        average = self.average
        if average is None:
            yield
            return
        with average.applied():
            yield

    def measured(self) -> list[tuple[tuple[str, ...], tuple[str, ...], Tensor]]:
        """Return what was measured at the last step, with names, for the logs of its batch."""
        if not self._measures:
            return []
        name = ("grad_norm",)
        norms = [part.norm for part in self._measures]
        return [(name, name, norm) for norm in norms if norm is not None]

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        self.optimizer.zero_grad()
        self.guard.open()
        if self.window is not None:
            self.window, self._loss = [], 0.0

    def backward(self, loss: Tensor, share: float | Tensor) -> None:
        """Add the gradients of a loss, weighted by its share of the optimizer step."""
        loss = self._weighed(loss, share)
        self._precision.backward(loss)
        if self.window is not None:
            self._loss = self._loss + loss.detach()

    def apply(self, repeat: Callable[[Batch], None] | None = None) -> None:
        """Step the optimizer: the gradients are complete.

        Args:
            repeat: What runs a batch of the ``window`` forward and backward at the present
                weights; for updates that evaluate the gradients several times.
        """
        again = None if repeat is None else partial(self._again, repeat)
        step = self.prepare(again)
        if self._closure and again is not None:
            take = partial(self._search, _Closure(self._whole_loss(), again))
        else:
            take = partial(self._precision.step, self.optimizer)
        gradients = present_gradients(self.optimizer)
        self.guard.step(gradients, self.optimizer, self._precision, take)
        self.finish(step)

    def _search(self, closure: "_Closure") -> None:
        """Let the optimizer evaluate the loss as it likes; undo what ends in no numbers."""
        evaluate: Any = closure
        if not self.guard.watches:
            self.optimizer.step(evaluate)
            return
        groups = self.optimizer.param_groups
        weights = [p.data for group in groups for p in group["params"]]
        before = [weight.clone() for weight in weights]
        self.optimizer.step(evaluate)
        # Trials of a line search may fail: where it ends is what counts.
        if not nonfinite_gradients(weights):
            return
        torch._foreach_copy_(weights, before)
        self.optimizer.state.clear()  # what it remembers of the slope is of no use either
        name = type(self.optimizer).__name__
        self.guard.undone(f"{name} ended in weights that are not finite{closure.first_bad()}.")

    def end_pass(self) -> None:
        """End a train pass: say what is not yet said."""
        self.guard.end_pass()

    @staticmethod
    def _weighed(loss: Tensor, share: float | Tensor) -> Tensor:
        """Return what the gradient is taken of, shape ()."""
        if isinstance(share, Tensor):
            # A batch without any valid target has share 0 and loss nan, and adds nothing.
            loss = torch.where(share > 0, loss * share.to(loss.dtype), 0.0)
        elif share != 1.0:
            loss = loss * share
        # The terms of several losses have a share each.
        return loss.sum() if loss.ndim else loss

    def prepare(self, again: Again | None) -> int:
        """Let those act who wait for the gradients; return the number of the step."""
        hooks, done = self._hooks, self._progress.step
        self._precision.finish_gradients(self.optimizer)
        for before in self._before:
            before(done, again)
        if "on_optimizer_step_begin" in hooks:
            hooks.fire("on_optimizer_step_begin", done + 1)
        return done + 1

    def finish(self, step: int) -> None:
        """Count a step and tell those who wait for the new weights."""
        hooks = self._hooks
        self._progress.step = step
        for after in self._after:
            after(step)
        if "on_optimizer_step_end" in hooks:
            hooks.fire("on_optimizer_step_end", step)

    def _again(self, repeat: Callable[[Batch], None]) -> Tensor:
        self.optimizer.zero_grad()
        self._loss = 0.0
        for batch in self.window or ():
            repeat(batch)
        return self._whole_loss()

    def _whole_loss(self) -> Tensor:
        """Return the loss of the step, the same on all ranks: what is decided by it is too."""
        loss: Any = self._strategy.total(self._loss)
        whole: Tensor = loss / self._strategy.world_size
        return whole


class _Closure:
    """What an optimizer calls for the loss; it is known, with its gradients, the first time."""

    def __init__(self, loss: Tensor, again: Callable[[], Tensor]) -> None:
        self._known: Tensor | None = loss
        self._again = again
        self._losses: list[Tensor] = []

    def __call__(self) -> Tensor:
        loss, self._known = self._known, None
        if loss is None:
            loss = self._again()
        self._losses.append(loss)
        return loss

    def first_bad(self) -> str:
        """Return which evaluation was the first without a finite loss, for a sentence."""
        for number, loss in enumerate(map(float, self._losses), start=1):
            if not math.isfinite(loss):
                return f": evaluation {number} of the step gave the loss {loss:g}"
        return ""


def needs_closure(optimizer: Any) -> bool:
    """Return whether the optimizer's step evaluates the loss itself, as that of LBFGS does."""
    cls = type(optimizer)
    if not issubclass(cls, Optimizer):  # a stand-in for one
        return False
    closure = inspect.signature(cls.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _overridden(parts: list[UpdatePart], hook: str) -> list[Any]:
    plain = getattr(UpdatePart, hook)
    return [getattr(part, hook) for part in parts if getattr(type(part), hook) is not plain]
