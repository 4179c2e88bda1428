"""Optimizer steps that are one call of a kernel."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_ as _is
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, optimizer as torch_optimizer

__all__ = ["DirectStep", "Group", "has_kernels", "set_grad_enabled"]

_NUMBERS = ("lr", "eps", "weight_decay", "momentum", "dampening")
_RATES = ("lr", "initial_lr")
_stride = Tensor.stride
_learns = Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_gradient: Any = vars(torch._C.TensorBase)["grad"].__get__
set_grad_enabled: Callable[[bool], Any] = getattr(
    torch._C, "_set_grad_enabled", torch.set_grad_enabled
)
"""What ``torch.no_grad`` calls in the end; it takes a fifth of the time."""


class DirectStep:
    """Updates weights by one call of the optimizer's own kernel, on the optimizer's own state.

    What is computed is what the optimizer's ``step`` computes, bit for bit; what is left out are
    its wrappers, ``zero_grad`` and the gradients' way through ``Parameter.grad``. Made anew for
    each pass, after a step of the ordinary way, which gives each parameter its state.

    Args:
        optimizer: The optimizer.
        groups: What the kernels work on.
        parameters: What gradients are asked for, in the order of the groups.
        others: Parameters that may be no part of the optimizer. Those that are frozen must stay so.

    Attributes:
        parameters: As above.
        groups: Those that have parameters with gradients.
        used: Whether each of the parameters has one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        groups: Sequence["Group"],
        parameters: Sequence[Tensor],
        others: Iterable[Tensor] = (),
    ) -> None:
        self.parameters = tuple(parameters)
        self._optimizer = optimizer
        self._built_on = optimizer.param_groups, optimizer.state
        self.groups = [group for group in groups if group.parameters]
        self.used = [p.grad is not None for p in parameters]
        self._strides = [p.stride() for p in parameters if p.grad is not None]
        self._looks = _looks_of(optimizer)
        own = (p for options in optimizer.param_groups for p in options["params"])
        every = {id(p): p for p in (*own, *others)}
        self._frozen = [p for p in every.values() if not p.requires_grad]

    @classmethod
    def of(cls, optimizer: Any, others: Iterable[Tensor] = ()) -> "DirectStep | None":
        """Return the direct step of an optimizer that has just made an ordinary one.

        Args:
            optimizer: The optimizer.
            others: Parameters that may be no part of it.

        Returns:
            None if it is none of torch's own with a kernel for all weights, if somebody hooked
            into its step, or if some gradient is sparse, of another dtype or elsewhere.
        """
        if not _is_plain(optimizer):
            return None
        groups: list[Group] = []
        parameters: list[Tensor] = []
        for options in optimizer.param_groups:
            trainable = [p for p in options["params"] if p.requires_grad]
            given = [p for p in trainable if p.grad is not None]
            if any(map(_is_watched, trainable)) or not _fits_together(given):
                return None
            group = _group_of(optimizer, options, given)
            if group is None:
                return None
            groups.append(group)
            parameters += trainable
        if not any(group.parameters for group in groups):
            return None
        return cls(optimizer, groups, parameters, others)

    def is_current(self) -> bool:
        """Tell whether the optimizer still works with the state that the step was made for."""
        groups, state = self._built_on
        return self._optimizer.param_groups is groups and self._optimizer.state is state

    def is_asked_for(self) -> bool:
        """Tell whether the parameters that learn are those of the step: a forward may freeze some.

        It may also thaw some: of the optimizer, or others that get a gradient all the same.

        To be asked at each step, even where no callback acts: it is quick.
        """
        return all(map(_learns, self.parameters)) and not any(map(_learns, self._frozen))

    def is_alone(self) -> bool:
        """Tell whether no parameter has a gradient yet: a forward may go back from a loss itself.

        To be asked at each step after the forward, where the gradients of the step before were let
        go: it is quick.
        """
        return all(map(_is, map(_gradient, self.parameters), repeat(None)))

    def is_unchanged(self) -> bool:
        """Tell whether a step made now would work with the same parameters and states.

        Somebody may have frozen a layer, hooked into the step, put other states in place of these,
        or set an option, such as a momentum, that needs another kernel.
        """
        looks = _looks_of(self._optimizer)
        if len(looks) == len(self._looks) and all(map(_is, looks, self._looks)):
            return True
        now = DirectStep.of(self._optimizer)
        if now is None or not self._works_on_that_of(now):
            return False
        self._looks = looks
        return True

    def _works_on_that_of(self, other: "DirectStep") -> bool:
        if len(self.groups) != len(other.groups) or len(self.parameters) != len(other.parameters):
            return False
        return all(map(_is, self.parameters, other.parameters)) and all(
            one.works_on_that_of(two) for one, two in zip(self.groups, other.groups, strict=True)
        )

    def fitting(self, gradients: Sequence[Tensor | None]) -> list[Tensor] | None:
        """Return the gradients that are there, laid out in memory as their parameters are.

        Args:
            gradients: One for each of the parameters, None for those without.

        Returns:
            None if they are of other parameters than those that the step was made for.
        """
        there = [gradient for gradient in gradients if gradient is not None]
        # Where all had a gradient and all have one, there is nothing to compare.
        all_there = len(there) == len(self.used) == len(self._strides)
        if not all_there and [g is not None for g in gradients] != self.used:
            return None
        if list(map(_stride, there)) != self._strides:
            # A kernel reads memory as it comes; what is already in order stays as it is.
            owners = [p for p, used in zip(self.parameters, self.used, strict=True) if used]
            there = [torch.empty_like(p).copy_(g) for p, g in zip(owners, there, strict=True)]
        return there

    def __call__(self, gradients: list[Tensor]) -> None:
        """Update the weights, unless the optimizer's ``found_inf``, a flag on the device, is set.

        Args:
            gradients: What `fitting` returned.
        """
        optimizer: Any = self._optimizer
        optimizer._opt_called = True  # what torch's schedulers ask for
        found_inf = getattr(optimizer, "found_inf", None)
        start = 0
        had_gradients = torch.is_grad_enabled()
        set_grad_enabled(False)
        try:
            for group in self.groups:
                end = start + len(group.parameters)
                _KERNELS[group.kind](group, gradients[start:end], found_inf)
                start = end
        finally:
            set_grad_enabled(had_gradients)


@dataclass(slots=True)
class Group:
    """What a kernel works on.

    Attributes:
        kind: What is computed: ``"add"``, plain gradient descent; ``"sgd"``; ``"adam"``.
        options: Those of the optimizer's parameter group.
        parameters: Its parameters that have gradients.
        states: The optimizer's state of them, one list for each part of it: the momentum, or
            the first and the second moment and the number of steps.
    """

    kind: str
    options: dict[str, Any]
    parameters: list[Tensor]
    states: list[list[Tensor]] = field(default_factory=list)

    def is_like(self, other: "Group") -> bool:
        """Tell whether another group has the same parameters and states, and equal options."""
        return self._constants() == other._constants() and self.works_on_that_of(other)

    def works_on_that_of(self, other: "Group") -> bool:
        """Tell whether another group has the same parameters and states, and the same kernel."""
        tensors = [*self.parameters, *(x for state in self.states for x in state)]
        others = [*other.parameters, *(x for state in other.states for x in state)]
        same = self.kind == other.kind and len(self.states) == len(other.states)
        return same and len(tensors) == len(others) and all(map(_is, tensors, others))

    def _constants(self) -> dict[str, Any]:
        left_out = ("params", *_RATES)
        options = {k: v for k, v in self.options.items() if k not in left_out}
        return {"kind": self.kind, **options}


def _add(group: Group, gradients: list[Tensor], found_inf: Tensor | None) -> None:
    torch._foreach_add_(group.parameters, gradients, alpha=-group.options["lr"])


def _fused_sgd(group: Group, gradients: list[Tensor], found_inf: Tensor | None) -> None:
    options = group.options
    momenta = group.states[0] if group.states else []
    torch._fused_sgd_(
        group.parameters,
        gradients,
        momenta,
        weight_decay=options["weight_decay"],
        momentum=options["momentum"],
        lr=options["lr"],
        dampening=options["dampening"],
        nesterov=options["nesterov"],
        maximize=options["maximize"],
        is_first_step=False,
        grad_scale=None,
        found_inf=found_inf,
    )


def _fused_adam(group: Group, gradients: list[Tensor], found_inf: Tensor | None) -> None:
    options = group.options
    first, second, steps = group.states
    kernel = torch._fused_adamw_ if options["decoupled_weight_decay"] else torch._fused_adam_
    torch._foreach_add_(steps, 1)
    kernel(
        group.parameters,
        gradients,
        first,
        second,
        [],
        steps,
        lr=options["lr"],
        beta1=options["betas"][0],
        beta2=options["betas"][1],
        weight_decay=options["weight_decay"],
        eps=options["eps"],
        amsgrad=False,
        maximize=options["maximize"],
        grad_scale=None,
        found_inf=found_inf,
    )
    if found_inf is not None:
        torch._foreach_sub_(steps, [found_inf] * len(steps))


_KERNELS: dict[str, Callable[[Group, list[Tensor], Tensor | None], None]] = {
    "add": _add,
    "sgd": _fused_sgd,
    "adam": _fused_adam,
}


def _group_of(optimizer: Any, options: dict[str, Any], given: list[Tensor]) -> Group | None:
    """Return what the kernel of a parameter group works on; None if there is no such kernel."""
    numbers = [*(options.get(name) for name in _NUMBERS), *options.get("betas", ())]
    if any(isinstance(number, Tensor) for number in numbers):
        return None
    if type(optimizer) is SGD:
        if options["fused"]:
            names = ["momentum_buffer"] if options["momentum"] else []
            return _with_states(Group("sgd", options, given), optimizer, names)
        plain = not (options["momentum"] or options["weight_decay"] or options["maximize"])
        return Group("add", options, given) if plain else None
    if not options["fused"] or options["amsgrad"] or "decoupled_weight_decay" not in options:
        return None
    names = ["exp_avg", "exp_avg_sq", "step"]
    return _with_states(Group("adam", options, given), optimizer, names)


def _with_states(group: Group, optimizer: Any, names: list[str]) -> Group | None:
    for name in names:
        states = [optimizer.state.get(p, {}).get(name) for p in group.parameters]
        if not all(isinstance(one, Tensor) for one in states):
            return None
        group.states.append(states)
    return group


def _looks_of(optimizer: Any) -> list[Any]:
    """Return objects, of which one is another object when something changes that steps depend on.

    More may have changed than matters, but not less; rates of learning may change freely.
    """
    found = [vars(optimizer).get("step"), *map(bool, _hooks_of(optimizer))]
    for options in optimizer.param_groups:
        found += [value for name, value in options.items() if name not in _RATES]
        found.append(type(options["lr"]))
        for p in options["params"]:
            after = bool(getattr(p, "_post_accumulate_grad_hooks", None))
            found += (p, p.dtype, p.requires_grad, bool(p._backward_hooks), after)
    for state in optimizer.state.values():
        found += state.values()
    return found


def _hooks_of(optimizer: Any) -> tuple[Any, ...]:
    return (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )


def has_kernels(optimizer: Any) -> bool:
    """Tell whether an optimizer is of a class whose step kernels may be known of."""
    return type(optimizer) in (SGD, Adam, AdamW)


def _is_plain(optimizer: Any) -> bool:
    """Tell whether an optimizer is one of torch's own, and its step nobody's but torch's."""
    if not has_kernels(optimizer):
        return False
    own = vars(optimizer).get("step")
    if own is not None and not _counts_only(own, type(optimizer)):
        return False
    return not any(_hooks_of(optimizer)) and not any(
        options.get(name)
        for options in optimizer.param_groups
        for name in ("differentiable", "capturable")
    )


def _counts_only(step: Any, cls: type[Optimizer]) -> bool:
    """Tell whether a step is the optimizer's own, wrapped by a scheduler of torch that counts."""
    counts = getattr(step, "_wrapped_by_lr_sched", False) is True
    return counts and getattr(step, "__wrapped__", None) is cls.step


def _is_watched(parameter: Tensor) -> bool:
    """Tell whether somebody hooked into the gradient of a parameter."""
    after = getattr(parameter, "_post_accumulate_grad_hooks", None)
    return bool(parameter._backward_hooks) or bool(after)


def _fits_together(parameters: Sequence[Tensor]) -> bool:
    """Tell whether one kernel can take these parameters and their gradients."""
    kinds = set()
    for parameter in parameters:
        gradient = parameter.grad
        assert gradient is not None
        if gradient.layout is not torch.strided or not parameter.is_floating_point():
            return False
        kinds.add((parameter.device, parameter.dtype))
    return len(kinds) <= 1
