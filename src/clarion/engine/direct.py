"""The shortest way from a loss to new weights, taken where nobody needs the long one."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clarion.data.batch import Batch
from clarion.engine.gradients import gradients_of, is_all_there, owned
from clarion.engine.kernels import DirectStep, has_kernels
from clarion.engine.optimizers import left_out
from clarion.engine.parts import Plan
from clarion.engine.precision import ScaledMixed
from clarion.engine.update import Update

__all__ = ["DirectUpdate"]

_BEFORE = ("on_backward_end", "on_optimizer_step_begin")


class DirectUpdate(Update):
    """An update that asks autograd for the gradients and hands them to the optimizer's kernel.

    Weights, optimizer state and logs are those of `Update`, bit for bit. The first step of each
    pass is an ordinary one; those after it are direct if the optimizer allows it (`DirectStep.of`)
    and each step has one batch; unless callbacks act between the gradients and the step, the loss
    depends on more than the optimizer's parameters (`is_all_there`), the network has others that
    learn, or its forward leaves gradients behind. That is asked again when a frozen parameter of
    the network begins to learn. Where somebody may look at gradients (callbacks inside a pass,
    clipping), they stand in ``Parameter.grad`` as ever; else only those of the last step do.

    Args: see `Update`.

    Attributes:
        direct: The direct step, None while steps are ordinary.
        gradients: Those of the last step, in the order of its parameters.
        is_possible: Whether there can be direct steps in this training.
        shares_gradients: Whether somebody may look at the gradients.
    """

    direct: DirectStep | None = None
    gradients: Sequence[Tensor | None] = ()
    is_possible = False
    shares_gradients = False
    _is_meddled_with = False
    _is_due = False

    @property
    def is_undisturbed(self) -> bool:
        """Whether nobody acts on gradients before the step, though some may look after it."""
        heard = any(hook in self._hooks for hook in _BEFORE)
        return not heard and not any(part.reads_gradients for part in self._parts)

    @property
    def was_refused(self) -> bool:
        """Whether an ordinary step of this pass showed that there are no direct ones after it."""
        return self.is_possible and self.direct is None and not self._is_due

    @property
    def has_company(self) -> bool:
        """Whether somebody else acts at the beginning or at the end of a step."""
        return bool(self._before or self._after or "on_optimizer_step_end" in self._hooks)

    def begin(self, plan: Plan) -> None:
        """Prepare for a training."""
        super().begin(plan)
        self._is_meddled_with = self._hooks.acts_inside
        reads = any(part.reads_gradients for part in self._parts)
        self.shares_gradients = reads or self._is_meddled_with
        several = self.window is not None or plan.batches_per_step > 1
        scaled = isinstance(self._precision, ScaledMixed)
        between = self._is_meddled_with and any(hook in self._hooks for hook in _BEFORE)
        self.is_possible = has_kernels(self.optimizer) and not (several or scaled or between)

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for the train pass of an epoch."""
        super().begin_epoch(epoch)
        self.direct, self._is_due = None, self.is_possible

    def go_on(self, used: Sequence[bool]) -> None:
        """Take direct steps from the first one on: the pass goes on in its middle.

        Args:
            used: Which of the parameters that learn had gradients before, in their order.
        """
        parameters = [p for p in self._parameters() if p.requires_grad]
        if not self.is_possible or len(parameters) != len(used):
            return
        for parameter, is_used in zip(parameters, used, strict=True):
            parameter.grad = torch.empty_like(parameter) if is_used else None
        self.direct = DirectStep.of(self.optimizer, self._others())
        self._is_due = self.direct is None
        for parameter in parameters:
            parameter.grad = None

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        if self.direct is not None and not self.is_right(self.direct):
            self.direct, self._is_due = None, True
        if self.direct is None:
            super().clear()
        else:
            self.release(self.direct)
            self.guard.open()

    def release(self, direct: DirectStep) -> None:
        """Let go of the gradients of the step before: their memory serves the next ones."""
        self.gradients = ()
        if self.shares_gradients:
            for parameter in direct.parameters:
                parameter.grad = None

    def backward(self, loss: Tensor, share: float | Tensor) -> None:
        """Take the gradients of a loss, weighted by its share of the optimizer step."""
        if self.direct is not None and not self.direct.is_asked_for():
            self.direct, self._is_due = None, True
            self.optimizer.zero_grad()
        elif self.direct is not None and not self.direct.is_alone():
            self.direct = None  # what is there already is part of this step's gradients
        if self.direct is None:
            super().backward(loss, share)
            self._is_due = self._is_due and is_all_there(loss, self._parameters())
            return
        self.gradients = gradients_of(self._weighed(loss, share), self.direct.parameters)
        if self.shares_gradients:
            self.share()

    def apply(self, repeat: Callable[[Batch], None] | None = None) -> None:
        """Step the optimizer: the gradients are complete."""
        direct = self.direct
        if direct is None:
            super().apply(repeat)
            if self._is_due:
                self._is_due = False
                if not self._has_strangers():
                    self.direct = DirectStep.of(self.optimizer, self._others())
            if self.direct is not None:
                self._take_back(self.direct)
            return
        step = self.prepare(None)
        if self.shares_gradients:
            self.gradients = [p.grad for p in direct.parameters]
        gradients = direct.fitting(self.gradients)
        take: Callable[[], Any] = partial(direct, gradients or [])
        others = gradients is None
        if gradients is None:  # other parameters than before had a part in this loss
            self.share()
            gradients = [g for g in self.gradients if g is not None]
            take = partial(self._precision.step, self.optimizer)
        self.guard.step(gradients, self.optimizer, self._precision, take, self.share)
        if others and not self.shares_gradients:
            self._hide(direct)
        self.finish(step)

    def end_pass(self) -> None:
        """End a train pass; the gradients of its last step stay at the parameters."""
        self.share()
        self.direct, self.gradients = None, ()
        super().end_pass()

    def is_right(self, direct: DirectStep) -> bool:
        """Tell whether nothing has changed for which the direct step was made."""
        return direct.is_current() and (not self._is_meddled_with or direct.is_unchanged())

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    def _others(self) -> Iterator[Tensor]:
        return iter(()) if self._network is None else self._network.parameters()

    def _has_strangers(self) -> bool:
        """Tell whether other parameters than the optimizer's learn: some batch may lead to them."""
        return self._network is not None and bool(left_out(self.optimizer, self._network))

    def _take_back(self, direct: DirectStep) -> None:
        self.gradients = [p.grad for p in direct.parameters]
        if not self.shares_gradients:
            self._hide(direct)

    @staticmethod
    def _hide(direct: DirectStep) -> None:
        """Keep gradients, of the size of the network, from standing at the parameters as well."""
        for parameter in direct.parameters:
            parameter.grad = None

    def share(self) -> None:
        """Put the gradients where everybody looks for them."""
        if self.direct is not None and self.gradients:
            parameters = self.direct.parameters
            self.gradients = owned(self.gradients, parameters)
            for parameter, gradient in zip(parameters, self.gradients, strict=True):
                parameter.grad = gradient
