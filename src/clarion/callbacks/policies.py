"""Learning rate and momentum for each train batch, by phases."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from clarion.callbacks.memory import RememberingCallback
from clarion.errors import InvalidArgumentError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "OptimizerPolicy",
    "Phase",
    "cosinespace",
    "linspace",
    "one_cycle_phases",
    "sgdr_phases",
]


class _Space:
    """Values from ``start`` to ``end``, both included, that can be walked again and again."""

    def __init__(self, start: float, end: float, steps: int) -> None:
        if steps < 0:
            raise InvalidArgumentError(
                f"{type(self).__name__}({start}, {end}, {steps}): the number of values is negative."
            )
        self.start = start
        self.end = end
        self.steps = steps

    def __iter__(self) -> Iterator[float]:
        span = self.end - self.start
        for i in range(self.steps):
            part = self._progress(i / max(self.steps - 1, 1))
            # Both halves from their own end, as torch.linspace does: the ends are exact.
            yield self.start + part * span if part < 0.5 else self.end - (1 - part) * span

    def __len__(self) -> int:
        return self.steps

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.start}, {self.end}, {self.steps})"

    def _progress(self, done: float) -> float:
        raise NotImplementedError


class linspace(_Space):  # noqa: N801  # the name of numpy's and torch's functions
    """Evenly spaced values.

    Args:
        start: The first value.
        end: The last value.
        steps: How many values; a single one is ``start``.

    Raises:
        InvalidArgumentError: If ``steps`` is negative.

    Example:
        >>> list(linspace(0, 1, 3))
        [0.0, 0.5, 1.0]
    """

    def _progress(self, done: float) -> float:
        return done


class cosinespace(_Space):  # noqa: N801  # as linspace
    """Values spaced like half a period of a cosine: slow, fast, slow.

    Args:
        start: The first value.
        end: The last value.
        steps: How many values; a single one is ``start``.

    Raises:
        InvalidArgumentError: If ``steps`` is negative.

    Source:
        Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """

    def _progress(self, done: float) -> float:
        return (1 - math.cos(math.pi * done)) / 2


class Phase:
    """Values of an optimizer's settings for some steps.

    Iterating gives a dict per step, for example ``{"lr": 0.1, "momentum": 0.9}``, and ends with
    the shorter of the two.

    Args:
        lr: The learning rate of each step: ``linspace``, ``cosinespace`` or any iterable that can
            be walked more than once.
        momentum: The momentum of each step.

    Raises:
        InvalidArgumentError: If neither is given.
    """

    def __init__(
        self, *, lr: Iterable[float] | None = None, momentum: Iterable[float] | None = None
    ) -> None:
        given = {"lr": lr, "momentum": momentum}
        self.configuration = {name: space for name, space in given.items() if space is not None}
        if not self.configuration:
            raise InvalidArgumentError(
                "A Phase needs values for lr, momentum or both, for example "
                "Phase(lr=linspace(0.1, 1.0, 100))."
            )

    def __iter__(self) -> Iterator[dict[str, float]]:
        names = list(self.configuration)
        for values in zip(*self.configuration.values(), strict=False):
            yield dict(zip(names, values, strict=True))

    def __repr__(self) -> str:
        spaces = ", ".join(f"{name}={space!r}" for name, space in self.configuration.items())
        return f"Phase({spaces})"

    def plot(self, param_name: str = "lr", ax: "Axes | None" = None) -> "Axes":
        """Draw the values over the steps.

        Args:
            param_name: ``"lr"`` or ``"momentum"``.
            ax: Where to draw; a new figure if omitted.

        Returns:
            The axes.

        Raises:
            InvalidArgumentError: If the phase does not set ``param_name``.
            MissingDependencyError: If matplotlib is not installed.
        """
        return _plot(self, param_name, ax)


class OptimizerPolicy(RememberingCallback):
    """Sets learning rate and momentum of all parameter groups before each train batch.

    After the last step of the last phase the optimizer is left as it is. Iterating gives what is
    still to come, and advances.

    Args:
        phases: The phases, one after the other.
        initial_step: How many steps to leave out at the beginning.

    Attributes:
        current_step: How many steps are done or left out. Each training starts at
            ``initial_step``, one that resumes where it was.
    """

    def __init__(self, phases: Iterable[Phase], *, initial_step: int = 0) -> None:
        self.phases = list(phases)
        self.initial_step = initial_step
        self.current_step = initial_step
        self._upcoming = self._walk()

    def fresh_memory(self) -> dict[str, Any]:
        """Return the memory before a training: the step to start with."""
        return {"current_step": self.initial_step}

    def all_steps(self) -> Iterator[dict[str, float]]:
        """Return an iterator over the settings of all steps, wherever the policy is."""
        for phase in self.phases:
            yield from phase

    def __iter__(self) -> Iterator[dict[str, float]]:
        return self._upcoming

    def __repr__(self) -> str:
        phases = "\n".join(f"    {phase!r}" for phase in self.phases)
        return (
            f"OptimizerPolicy:\n    phases: {len(self.phases)}\n"
            f"    current_step: {self.current_step}\n{phases}"
        )

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Go back to the first step, unless this training resumes; warn of what has no effect."""
        super().on_train_begin(logs)
        self._upcoming = self._walk()
        names = {name for phase in self.phases for name in phase.configuration}
        optimizer = self.model.optimizer
        unknown = {name for name in names if name not in optimizer.param_groups[0]}
        if unknown:
            warnings.warn(
                f"OptimizerPolicy sets {', '.join(sorted(unknown))}, which "
                f"{type(optimizer).__name__} does not have: that part has no effect.",
                stacklevel=2,
            )

    def on_train_batch_begin(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Give the optimizer the settings of the next step, if there is one."""
        settings = next(self._upcoming, None)
        if settings is not None:
            for group in self.model.optimizer.param_groups:
                group.update(settings)

    def plot(self, param_name: str = "lr", ax: "Axes | None" = None) -> "Axes":
        """Draw the values of all phases over the steps; see ``Phase.plot``."""
        return _plot(self.all_steps(), param_name, ax)

    def _walk(self) -> Iterator[dict[str, float]]:
        for settings in islice(self.all_steps(), self.current_step, None):
            self.current_step += 1
            yield settings


def one_cycle_phases(
    steps: int,
    lr: tuple[float, float] = (0.1, 1),
    momentum: tuple[float, float] = (0.95, 0.85),
    finetune_lr: float = 0.01,
    finetune_fraction: float = 0.1,
) -> list[Phase]:
    """Return the phases of a one-cycle policy: up, down, and some steps of fine-tuning.

    Args:
        steps: How many train batches in all.
        lr: The learning rate at both ends of the cycle, and at its top.
        momentum: The momentum there.
        finetune_lr: The learning rate at the very end.
        finetune_fraction: The part of the steps that goes from ``lr[0]`` to ``finetune_lr``, in
            [0, 1].

    Raises:
        InvalidArgumentError: If ``steps`` is negative, or ``finetune_fraction`` not in [0, 1].

    Source:
        Smith 2018, arXiv:1803.09820.
    """
    if steps < 0 or not 0 <= finetune_fraction <= 1:
        raise InvalidArgumentError(
            f"one_cycle_phases(steps={steps}, finetune_fraction={finetune_fraction}): a number of "
            "train batches, and a fraction from 0 to 1."
        )
    finetune = int(steps * finetune_fraction)
    up = (steps - finetune) // 2
    down = steps - finetune - up
    return [
        Phase(lr=linspace(*lr, up), momentum=linspace(*momentum, up)),
        Phase(lr=linspace(lr[1], lr[0], down), momentum=linspace(momentum[1], momentum[0], down)),
        Phase(
            lr=linspace(lr[0], finetune_lr, finetune),
            momentum=linspace(momentum[0], momentum[0], finetune),
        ),
    ]


def sgdr_phases(
    base_cycle_length: int,
    cycles: int,
    lr: tuple[float, float] = (1.0, 0.1),
    cycle_mult: int = 2,
) -> list[Phase]:
    """Return the phases of warm restarts: a cosine from ``lr[0]`` to ``lr[1]`` per cycle.

    Args:
        base_cycle_length: Train batches of the first cycle.
        cycles: How many cycles.
        lr: The learning rate at the beginning and at the end of a cycle.
        cycle_mult: How many times as long as the cycle before each one is.

    Source:
        Loshchilov and Hutter 2017, arXiv:1608.03983, section 3.
    """
    lengths = [base_cycle_length * cycle_mult**i for i in range(cycles)]
    return [Phase(lr=cosinespace(*lr, length)) for length in lengths]


def _plot(steps: Iterable[dict[str, float]], param_name: str, ax: "Axes | None") -> "Axes":
    values = [step[param_name] for step in steps if param_name in step]
    if not values:
        raise InvalidArgumentError(f'plot(param_name="{param_name}"): nothing sets {param_name}.')
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise MissingDependencyError("plot", "matplotlib", "plot") from error
        _, ax = plt.subplots()
    ax.plot(values)
    ax.set_xlabel("steps")
    ax.set_ylabel(param_name)
    return ax
