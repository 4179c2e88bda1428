"""What users say about the update of the weights, in one object."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from clarion.engine.averaging import WeightAverage, check_average
from clarion.engine.clipping import ClipGradients
from clarion.engine.freezing import Freeze
from clarion.engine.groups import matching, parameter_groups
from clarion.engine.parts import UpdatePart
from clarion.engine.schedules import Schedule, check_schedule
from clarion.engine.sharpness import SharpnessAware
from clarion.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    UnknownArgumentError,
    UnknownNameError,
    kind_of,
    quoted,
    suggestion,
)

__all__ = ["OPTIMIZERS", "Optimization"]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.__name__.lower(): cls
    for cls in (
        torch.optim.Adadelta,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.SparseAdam,
        torch.optim.Adamax,
        torch.optim.ASGD,
        torch.optim.LBFGS,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.SGD,
    )
}
"""The optimizers that a name stands for."""


@dataclass(frozen=True, init=False, eq=False)
class Optimization:
    """How a model's weights are updated: an optimizer and the techniques around it.

    ``Model(optimizer=...)`` takes one of these, or a dict of the same keys. Everything is off
    unless it is asked for, and all of it goes together, with gradient accumulation too.

    Args:
        optim: The name of an optimizer, its class, or an optimizer that is ready.
        lr: The learning rate; the optimizer's own default (0.01 for ``"sgd"``) if None.
        schedule: How the learning rate changes with each optimizer step: ``"cosine"``,
            ``"linear"``, ``"constant"``, ``"one_cycle"``, ``"polynomial"``, ``"wsd"`` or
            ``"inverse_sqrt"``; with options as a dict, ``{"name": "polynomial", "power": 2.0}``.
            It rules alone: leave out scheduler callbacks beside it.
        warmup: The length of a linear warm-up from 0: a float up to 1.0 is a share of all steps,
            rounded up; a whole number counts steps. Without a schedule the rate then stays.
        total_steps: The optimizer steps that the schedule is made for; if None they are worked out
            from epochs, batches and ``batches_per_step``.
        floor: What share of the learning rate the schedule ends at, in [0, 1].
        clip_norm: The largest Euclidean norm of the complete gradient. The norm before clipping
            is ``grad_norm`` in the logs of each train batch that closes a step, and
            ``Model.gradient_norm``.
        clip_value: The largest absolute value of an element of the gradient.
        groups: Options by pattern over names of parameters (``fnmatch``), such as
            ``{"encoder.*": {"lr": 1e-5}}``: the first match counts, and what none matches has
            the options given here.
        layer_decay: What the learning rate is multiplied by for each layer further from the
            output, in (0, 1]; layers are found by the numbers in their names.
        decay_biases_and_norms: Whether weight decay is for biases and normalisation layers too.
        freeze: The first epoch in which parameters learn by pattern, ``{"encoder.*": 3}``; until
            then their ``requires_grad`` is False. None as epoch, or a pattern alone, is for ever.
        average: ``"ema"`` or ``"swa"`` for averaged weights, which validation uses while training;
            with options as a dict, ``{"kind": "ema", "decay": 0.999, "warmup": True}`` or
            ``{"kind": "swa", "start": 0.75, "swa_lr": 0.05}`` (a share of the epochs, or the first
            epoch, and the learning rate from there on); ``"update_bn": True`` counts the statistics
            of batch normalisation anew for the average.
        sharpness: The distance rho of sharpness-aware minimisation (SAM), for example 0.05.
        options: Other arguments of the optimizer, such as ``weight_decay``.

    Raises:
        UnknownNameError: If an optimizer, a schedule or an average is not known.
        UnknownArgumentError: If neither clarion nor the optimizer has such an argument.
        InvalidArgumentError: If a value cannot work.

    Example:
        >>> Optimization("adamw", lr=3e-5, schedule="cosine", warmup=0.1, clip_norm=1.0).warmup
        0.1
        >>> Optimization("adamw", warm_up=0.1)
        Traceback (most recent call last):
            ...
        clarion.errors.UnknownArgumentError: optimizer: AdamW has no argument "warm_up"; ...
    """

    optim: Any
    lr: float | None
    schedule: Any
    warmup: float | None
    total_steps: int | None
    floor: float
    clip_norm: float | None
    clip_value: float | None
    groups: Mapping[str, Mapping[str, Any]] | None
    layer_decay: float | None
    decay_biases_and_norms: bool
    freeze: Any
    average: Any
    sharpness: float | None
    options: Mapping[str, Any]

    def __init__(
        self,
        optim: Any = "adamw",
        *,
        lr: float | None = None,
        schedule: Any = None,
        warmup: float | None = None,
        total_steps: int | None = None,
        floor: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        layer_decay: float | None = None,
        decay_biases_and_norms: bool = True,
        freeze: Any = None,
        average: Any = None,
        sharpness: float | None = None,
        **options: Any,
    ) -> None:
        given = dict(locals())
        del given["self"]
        for name, value in given.items():
            object.__setattr__(self, name, value)
        self._check()

    @classmethod
    def of(cls, optimizer: Any) -> "Optimization | None":
        """Return what ``optimizer=`` of a model means, or None for an optimizer or none at all.

        Args:
            optimizer: An ``Optimization``, a name, a dict with the name under ``"optim"`` and
                arguments beside it, an optimizer, or None.

        Raises:
            UnknownNameError: If a dict lacks ``"optim"``.
        """
        if isinstance(optimizer, cls):
            return optimizer
        if isinstance(optimizer, str):
            return cls(optimizer)
        if not isinstance(optimizer, Mapping):
            return None
        options = dict(optimizer)
        if "optim" not in options:
            raise UnknownNameError(
                f'optimizer is a dict with keys {quoted(options)}; it needs the key "optim" with '
                'the name of the optimizer, as in {"optim": "adam", "lr": 1e-3}.'
            )
        return cls(options.pop("optim"), **options)

    def build(self, network: nn.Module) -> Any:
        """Return the optimizer over the network's trainable parameters.

        Raises:
            InvalidArgumentError: If there are none, or a pattern matches none.
        """
        if isinstance(self.optim, Optimizer):
            return self.optim
        if not any(p.requires_grad for p in network.parameters()):
            raise InvalidArgumentError(
                f'The network has no trainable parameter for the optimizer "{self._called}". '
                "Pass optimizer=None to evaluate only, or unfreeze a parameter with "
                "requires_grad_()."
            )
        factory = self._class
        options = {**self.options, **({} if self.lr is None else {"lr": self.lr})}
        if factory is torch.optim.SGD:
            options = {"lr": 0.01, **options}
        default = inspect.signature(factory).parameters.get("lr")
        sorted_in = parameter_groups(
            network,
            options,
            lr=options.get("lr", getattr(default, "default", 1e-3)),
            groups=self.groups,
            layer_decay=self.layer_decay,
            decay_biases_and_norms=self.decay_biases_and_norms,
        )
        if len(sorted_in) > 1 and factory is torch.optim.LBFGS:
            raise InvalidArgumentError(
                "LBFGS treats all parameters as one group. Leave out groups=, layer_decay= and "
                "decay_biases_and_norms=."
            )
        if len(sorted_in) == 1 and set(sorted_in[0]) == {"params"}:
            sorted_in = sorted_in[0]["params"]
        return factory(sorted_in, **options)  # type: ignore[arg-type, unused-ignore]

    def parts(self, network: nn.Module, optimizer: Any) -> list[UpdatePart]:
        """Return what takes part in the update, in the order in which it acts.

        Args:
            network: The network.
            optimizer: What ``build`` returned for it.
        """
        parts: list[UpdatePart] = []
        planned = check_schedule(self.schedule, self.warmup, self.floor)
        if planned is not None:
            name, options = planned
            length = (self.warmup, self.total_steps, self.floor)
            parts.append(Schedule(optimizer, name, options, *length))
        if self.freeze is not None:
            parts.append(Freeze(self._frozen(network)))
        if self.sharpness is not None:
            parts.append(SharpnessAware(network, optimizer, self.sharpness))
        if self.clip_norm is not None or self.clip_value is not None:
            parts.append(ClipGradients(optimizer, self.clip_norm, self.clip_value))
        averaged = check_average(self.average)
        if averaged is not None:
            kind, options = averaged
            parts.append(WeightAverage(network, optimizer, kind, **options))
        return parts

    @property
    def _class(self) -> type[Optimizer]:
        if isinstance(self.optim, type):
            return self.optim
        if isinstance(self.optim, Optimizer):
            return type(self.optim)
        key = str(self.optim).lower()
        if key not in OPTIMIZERS:
            raise UnknownNameError(
                f'Unknown optimizer "{self.optim}"{suggestion(key, OPTIMIZERS) or "."} '
                f"Known: {quoted(sorted(OPTIMIZERS))}. A torch.optim.Optimizer works too."
            )
        return OPTIMIZERS[key]

    @property
    def _called(self) -> str:
        return self.optim if isinstance(self.optim, str) else self._class.__name__

    def _check(self) -> None:
        """Raise for whatever can be seen without a network."""
        self._check_options()
        check_schedule(self.schedule, self.warmup, self.floor)
        for name in ("lr", "clip_norm", "clip_value", "sharpness", "layer_decay", "total_steps"):
            _check_positive(name, getattr(self, name))
        if self.layer_decay is not None and self.layer_decay > 1:
            raise InvalidArgumentError(
                f"layer_decay is {self.layer_decay}; it is in (0, 1], since layers nearer to the "
                "input learn more slowly."
            )
        check_average(self.average)
        if self._class is torch.optim.LBFGS and (
            self.sharpness or self.clip_norm or self.clip_value
        ):
            raise InvalidArgumentError(
                "LBFGS compares gradients and losses at several weights, which sharpness=, "
                "clip_norm= and clip_value= would make disagree. Leave them out."
            )

    def _check_options(self) -> None:
        cls = self._class
        if isinstance(self.optim, Optimizer):
            self._check_ready(cls.__name__)
        parameters = inspect.signature(cls).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        known = [name for name in parameters if name != "params"]
        own = [one.name for one in fields(self) if one.name not in ("optim", "options")]
        for group in (self.groups or {}).values():
            _check_known(cls, group, known)
        _check_known(cls, self.options, list(dict.fromkeys([*own, *known])))

    def _check_ready(self, called: str) -> None:
        """Raise if an optimizer that is ready comes with what would have built it."""
        idle = [n for n in ("lr", "groups", "layer_decay") if getattr(self, n) is not None]
        idle += [] if self.decay_biases_and_norms else ["decay_biases_and_norms"]
        idle += self.options
        if idle:
            raise InvalidArgumentError(
                f"optim is a {called} that is ready, so {quoted(idle)} would have no effect. Build "
                "it so, or pass its name."
            )

    def _frozen(self, network: nn.Module) -> dict[Any, int | None]:
        until = {self.freeze: None} if isinstance(self.freeze, str) else self.freeze
        if not isinstance(until, Mapping):
            until = dict.fromkeys(until)
        for pattern, epoch in until.items():
            if epoch is not None and (isinstance(epoch, bool) or not isinstance(epoch, int)):
                raise InvalidTypeError(
                    f'freeze: "{pattern}" has {kind_of(epoch)} ({epoch!r}); say the number of the '
                    "first epoch in which it learns, or None."
                )
        trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
        chosen = matching(until, trainable, "freeze")
        return {trainable[name]: until[pattern] for name, pattern in chosen.items()}


def _check_known(cls: type[Optimizer], given: Mapping[str, Any], known: list[str]) -> None:
    for option in given:
        if option not in known:
            raise UnknownArgumentError(
                f'optimizer: {cls.__name__} has no argument "{option}"'
                f"{suggestion(option, known) or '.'} Its arguments, with clarion's: "
                f"{quoted(known)}."
            )


def _check_positive(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, int | float | torch.Tensor) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} is {kind_of(value)}; it must be a number.")
    if value < 0 or (value == 0 and name != "lr"):
        raise InvalidArgumentError(f"{name} is {value}; it must be above 0.")
