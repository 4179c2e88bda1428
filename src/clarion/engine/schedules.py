"""Learning rates as formulas of the optimizer step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from clarion.arguments import check_keywords
from clarion.engine.parts import Again, Plan, UpdatePart
from clarion.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    UnknownNameError,
    kind_of,
    quoted,
    suggestion,
)

__all__ = [
    "SCHEDULES",
    "Schedule",
    "check_schedule",
    "constant",
    "cosine",
    "inverse_sqrt",
    "linear",
    "one_cycle",
    "polynomial",
    "wsd",
]

_Factor = Callable[[int], float]


def constant(total: int | None, warmup: float) -> _Factor:
    """Stay at the base learning rate after the warm-up."""
    return lambda step: 1.0


def linear(total: int, warmup: float) -> _Factor:
    """Fall in a straight line from the end of the warm-up to the end of the training."""
    return lambda step: 1.0 - _done(step, warmup, total)


def cosine(total: int, warmup: float) -> _Factor:
    """Fall along half a cosine wave (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    return lambda step: _half_wave(_done(step, warmup, total))


def polynomial(total: int, warmup: float, power: float = 1.0) -> _Factor:
    """Fall as a power of what is left of the training."""
    return lambda step: (1.0 - _done(step, warmup, total)) ** power


def inverse_sqrt(total: int | None, warmup: float, timescale: float | None = None) -> _Factor:
    """Fall with the square root of the step (Vaswani et al. 2017, arXiv:1706.03762, section 5.3).

    The timescale is the warm-up's length, or 10 000 steps without one.
    """
    scale = timescale or warmup or 10_000
    return lambda step: 1.0 / math.sqrt((step - warmup + scale) / scale)


def wsd(total: int, warmup: float, decay: float = 0.2, shape: str = "cosine") -> _Factor:
    """Warm up, stay, and decay at the end (Hu et al. 2024, arXiv:2404.06395).

    ``decay`` is a share of the training in [0, 1], or a number of steps; ``shape`` is
    ``"cosine"``, ``"linear"`` or ``"1-sqrt"`` (Hägele et al. 2024, arXiv:2405.18392).
    """
    shapes: dict[str, Callable[[float], float]] = {
        "cosine": _half_wave,
        "linear": lambda done: 1.0 - done,
        "1-sqrt": lambda done: 1.0 - math.sqrt(done),
    }
    if shape not in shapes:
        raise UnknownNameError(f'wsd: unknown shape "{shape}". Known: {quoted(shapes)}.')
    length = _steps("decay", decay, total)
    return lambda step: shapes[shape](_done(step, total - length, total))


def one_cycle(
    total: int, warmup: float, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> _Factor:
    """Rise from 1/25 and fall far below it (Smith and Topin 2018, arXiv:1708.07120).

    The rise is the warm-up, which is 0.3 of the training unless given; the numbers are those of
    ``torch.optim.lr_scheduler.OneCycleLR``. Only the learning rate changes, no momentum.
    """
    first, last = 1.0 / div_factor, 1.0 / div_factor / final_div_factor
    top, end = warmup - 1.0, total - 1.0

    def factor(step: int) -> float:
        if step <= top:
            return 1.0 + (first - 1.0) * _half_wave(step / top if top else 1.0)
        done = min((step - top) / (end - top), 1.0) if end > top else 1.0
        return last + (1.0 - last) * _half_wave(done)

    return factor


SCHEDULES: dict[str, Callable[..., _Factor]] = {
    "constant": constant,
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
    "linear": linear,
    "one_cycle": one_cycle,
    "polynomial": polynomial,
    "wsd": wsd,
}
"""The schedules by name."""

_ENDLESS = frozenset({"constant", "inverse_sqrt"})


class Schedule(UpdatePart):
    """Sets the learning rate of every parameter group before each optimizer step.

    The rate of a group is its own base rate times a factor of the step, which is the number of
    steps done before: the first step of a warm-up of w steps has the factor 0, the next 1/w, as
    in transformers. After the last step planned the factor stays where it ended.

    Args:
        optimizer: The optimizer; the learning rates that it has now are the base.
        name: One of ``SCHEDULES``.
        options: Further arguments of that schedule.
        warmup: The length of the warm-up, a share of the training in [0, 1] or a number of steps.
        total_steps: The length of the training in steps; None for that of the training under way.
        floor: The smallest factor after the warm-up, in [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        name: str,
        options: Mapping[str, Any],
        warmup: float | None = None,
        total_steps: int | None = None,
        floor: float = 0.0,
    ) -> None:
        self._optimizer = optimizer
        self._name = name
        self._options = dict(options)
        self._warmup = warmup
        self._total_steps = total_steps
        self._floor = floor
        self._factor: _Factor | None = None
        for group in optimizer.param_groups:
            group["initial_lr"] = float(group["lr"])  # whatever another schedule has left

    def begin(self, plan: Plan) -> None:
        """Work out the length of the training and set the rate of its first step.

        In a training that goes on inside an epoch, it is that of the last step until the next one
        is taken: perhaps there is none left in the epoch.

        Raises:
            InvalidArgumentError: If the schedule needs the length, and nobody knows it.
        """
        for group in self._optimizer.param_groups:
            # A state that was loaded has none, if no schedule was there when it was saved.
            group.setdefault("initial_lr", float(group["lr"]))
        self._factor = self._planned(self._total_steps or plan.total_steps)
        self._set(self._factor(plan.done_steps - 1 if plan.inside else plan.done_steps))

    def before_step(self, step: int, again: Again | None) -> None:
        """Set the rates of this step."""
        if self._factor is None:  # single batches, trained outside of a training
            self.begin(Plan(done_steps=step))
        assert self._factor is not None
        self._set(self._factor(step))

    def _planned(self, total: int | None) -> _Factor:
        warmup = self._warmup
        if warmup is None:
            warmup = 0.3 if self._name == "one_cycle" else 0
        relative = isinstance(warmup, float) and 0.0 < warmup <= 1.0
        if total is None and (relative or self._name not in _ENDLESS):
            what = f"warmup={warmup}" if self._name in _ENDLESS else f'schedule="{self._name}"'
            raise InvalidArgumentError(
                f"{what} needs the number of optimizer steps of the whole training, and the "
                "training data does not tell its length. Say total_steps= beside the schedule, "
                "or steps_per_epoch= in fit."
            )
        length: float = _steps("warmup", warmup, total)
        if self._name == "one_cycle" and relative and total is not None:
            length = warmup * total  # as OneCycleLR, which does not round
        shape = SCHEDULES[self._name](total, length, **self._options)
        floor = self._floor

        def factor(step: int) -> float:
            if self._name != "one_cycle" and step < length:
                return step / length
            return floor + (1.0 - floor) * shape(step)

        return factor

    def _set(self, factor: float) -> None:
        for group in self._optimizer.param_groups:
            rate = group["initial_lr"] * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def check_schedule(schedule: Any, warmup: Any, floor: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the options of the schedule that a user means, or None for none.

    Args:
        schedule: A name, or a dict with one under ``"name"`` and options beside it.
        warmup: The warm-up that goes with it.
        floor: The floor that goes with it.

    Raises:
        InvalidArgumentError: If one of them cannot work.
    """
    if warmup is not None:
        _check_length("warmup", warmup)
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0.0 <= floor <= 1.0:
        raise InvalidArgumentError(
            f"floor is {floor!r}; it is a share of the learning rate, in [0, 1]: floor=0.1 ends "
            "at a tenth of it."
        )
    if schedule is None:
        return ("constant", {}) if warmup else None
    options = dict(schedule) if isinstance(schedule, Mapping) else {"name": schedule}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise InvalidTypeError(
            f"schedule is {kind_of(schedule)}; pass a name such as "
            '"cosine", or a dict such as {"name": "polynomial", "power": 2.0}.'
        )
    if name not in SCHEDULES:
        raise UnknownNameError(
            f'Unknown schedule "{name}"{suggestion(name, SCHEDULES) or "."} '
            f"Known: {quoted(SCHEDULES)}."
        )
    check_keywords(SCHEDULES[name], options, "schedule", own=("total", "warmup"))
    return name, options


def _check_length(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value < 0 or (value > 1 and value != int(value)):
        raise InvalidArgumentError(
            f"{name} is {value!r}; it is a share of the training in [0, 1], or a whole number of "
            "optimizer steps."
        )


def _steps(name: str, value: float, total: int | None) -> int:
    """Return a length in steps: a float up to 1 is a share of the training, rounded up."""
    _check_length(name, value)
    if isinstance(value, float) and value <= 1.0:
        return math.ceil(value * (total or 0))
    return int(value)


def _done(step: int, start: float, end: float) -> float:
    """Return which share of the way from ``start`` to ``end`` is done, in [0, 1]."""
    return min(max((step - start) / (end - start), 0.0), 1.0) if end > start else 1.0


def _half_wave(done: float) -> float:
    """Return 1 at the beginning and 0 at the end, along a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * done))
