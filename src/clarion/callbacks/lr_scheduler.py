"""The learning rate schedulers of torch as callbacks, one for each."""

import copy
import inspect
import os
import warnings
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, ClassVar

import torch.optim.lr_scheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clarion.callbacks.base import Callback
from clarion.callbacks.monitor import check_mode, check_patience, check_watchable, watched
from clarion.checkpoints.weights import load_state, save_state
from clarion.console import is_first_rank
from clarion.errors import (
    CheckpointError,
    InvalidArgumentError,
    InvalidTypeError,
    quoted,
    suggestion,
)

__all__ = ["_PyTorchLRSchedulerWrapper"]  # the generated names are added below


class _PyTorchLRSchedulerWrapper(Callback):
    """A scheduler of ``torch.optim.lr_scheduler``, built on the model's optimizer.

    It is stepped after each epoch, or with ``interval="batch"`` after each optimizer step. When a
    training begins, a new scheduler is built, and a state that was loaded before is applied to it
    and to the optimizer: the learning rate goes on as if the training had never stopped, even if
    the optimizer's own state was saved before the last step of the schedule.

    Args:
        *args: The arguments of torch's class without the optimizer. Schedulers among them, as
            ``SequentialLR`` takes, are callbacks of this kind too.
        interval: ``"epoch"`` or ``"batch"``.
        **kwargs: The same by name.

    Attributes:
        scheduler: torch's scheduler; None before the first training.

    Raises:
        InvalidArgumentError: If ``interval`` is unknown.
        InvalidTypeError: If the optimizer is among the arguments, or they do not fit torch's class.
    """

    torch_lr_scheduler: ClassVar[type[LRScheduler]]

    def __init__(self, *args: Any, interval: str = "epoch", **kwargs: Any) -> None:
        name = type(self).__name__
        if any(isinstance(value, Optimizer) for value in (*args, *kwargs.values())):
            raise InvalidTypeError(
                f"{name}: leave the optimizer out, it is the model's. The other arguments are "
                f"those of torch.optim.lr_scheduler.{name}."
            )
        if interval not in ("epoch", "batch"):
            raise InvalidArgumentError(
                f'{name}(interval={interval!r}): "epoch" steps the schedule after each epoch, '
                '"batch" after each optimizer step.'
            )
        self.args = args
        self.kwargs = kwargs
        self.interval = interval
        self.scheduler: LRScheduler | None = None
        self._state: Mapping[str, Any] | None = None
        self._training = False
        self._arguments()

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Build the scheduler on the model's optimizer, and apply the state that was loaded."""
        self._training = True
        self.scheduler = self._build(self.model.optimizer)
        if self._state:
            ignored = _ignored_options(self.scheduler, self._state)
            _restore(self.scheduler, self._state)
            self._warn_of(ignored)
        self._state = None
        self._warn_of_unreachable_steps()

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Know that a state loaded from now on is for the next training."""
        self._training = False

    def on_exception(self, error: BaseException) -> None:
        """Know that a state loaded from now on is for the next training."""
        self._training = False

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Step the schedule, if it is one of epochs."""
        if self.interval == "epoch" and self.scheduler is not None:
            self.scheduler.step()

    def on_optimizer_step_end(self, step: int) -> None:
        """Step the schedule, if it is one of optimizer steps."""
        if self.interval == "batch" and self.scheduler is not None:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch's scheduler, with the learning rates that are in use.

        Before the first training it is the state that was loaded, or empty.
        """
        if self.scheduler is None:
            return dict(self._state or {})
        # Another schedule of the same optimizer may have changed the rates since this one's step.
        rates = [_copy(group["lr"]) for group in self.scheduler.optimizer.param_groups]
        return {**self.scheduler.state_dict(), "_last_lr": rates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: at once, and unless a training is under way, in the next one too.

        Args:
            state: What ``state_dict`` of this class or of torch's scheduler returned.

        Raises:
            CheckpointError: If it is the state of something else.
        """
        if self.scheduler is not None and state:
            _restore(self.scheduler, state)
        if not self._training:
            self._state = state

    def save_state(self, f: str | os.PathLike[str] | IO[bytes]) -> None:
        """Save the state in a file.

        Args:
            f: A path or a binary file object.
        """
        save_state(self.state_dict(), f)

    def load_state(self, f: str | os.PathLike[str] | IO[bytes]) -> None:
        """Load the state from a file, as ``load_state_dict`` does.

        Args:
            f: A path or a binary file object.

        Raises:
            MissingFileError: If there is no such file.
            CheckpointError: If it holds anything else than tensors and plain values.
        """
        self.load_state_dict(load_state(f))

    def _build(self, optimizer: Optimizer) -> LRScheduler:
        arguments = {name: _built(value, optimizer) for name, value in self._arguments().items()}
        return self.torch_lr_scheduler(optimizer=optimizer, **arguments)

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments by name, or raise if they do not fit torch's class."""
        parameters = _parameters(self.torch_lr_scheduler)
        try:
            bound = inspect.Signature(parameters).bind(*self.args, **self.kwargs)
        except TypeError as error:
            names = [parameter.name for parameter in parameters]
            unknown = [name for name in self.kwargs if name not in names]
            owner = type(self).__name__
            what = f"{owner}: {error}."
            if unknown:  # Python may complain of what lacks instead, which is the same slip
                hint = suggestion(unknown[0], names)
                what = f'{owner} has no argument "{unknown[0]}"{hint or "."}'
            raise InvalidTypeError(f"{what} It takes {', '.join(names)}.") from error
        return dict(bound.arguments)

    def _warn_of(self, ignored: list[str]) -> None:
        if ignored and is_first_rank():
            warnings.warn(
                f"{type(self).__name__} goes on with the options of the training before, not with "
                f"those that it is built with now: {', '.join(ignored)}. To change one, set it in "
                "the callback's attribute scheduler in another one's on_train_begin, or train in "
                "a new directory.",
                stacklevel=3,
            )

    def _warn_of_unreachable_steps(self) -> None:
        """Warn if the schedule is one of batches and is stepped per epoch (``OneCycleLR``)."""
        steps = getattr(self.scheduler, "total_steps", 0)
        epochs = getattr(self, "params", {}).get("epochs")
        if self.interval == "epoch" and epochs is not None and steps > epochs:
            warnings.warn(
                f"{type(self).__name__} plans {steps} steps and takes one per epoch, of which "
                f'there are {epochs}: it will not get far. Pass interval="batch" to take one per '
                "optimizer step.",
                stacklevel=3,
            )


class ReduceLROnPlateau(_PyTorchLRSchedulerWrapper):
    """``torch.optim.lr_scheduler.ReduceLROnPlateau`` as a callback, stepped after each epoch.

    Args:
        *args: The arguments of torch's class without the optimizer; ``mode="max"`` if more is
            better.
        monitor: The key of the epoch logs that is watched.
        **kwargs: The same by name.

    Raises:
        InvalidArgumentError: If the mode is neither ``"min"`` nor ``"max"``, or the patience no
            number of at least 0; and see the other schedulers.
    """

    torch_lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau

    def __init__(self, *args: Any, monitor: str = "val_loss", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.interval != "epoch":
            raise InvalidArgumentError(
                f'ReduceLROnPlateau(interval="{self.interval}"): what it watches is known at the '
                "end of an epoch only; leave interval out."
            )
        given = self._arguments()
        check_mode(type(self).__name__, given.get("mode", "min"))
        check_patience(type(self).__name__, given.get("patience", 10))
        self.monitor = monitor

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Build the scheduler, as the others do.

        Raises:
            MissingMonitorError: If it is certain that the logs will not hold ``monitor``.
        """
        check_watchable(self)
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Step the schedule with the value of ``monitor``.

        Raises:
            MissingMonitorError: If ``logs`` does not hold it.
        """
        current = watched(self, logs, epoch_number)
        if self.scheduler is not None:
            self.scheduler.step(current)  # type: ignore[arg-type]  # torch declares an epoch here


def _callback_for(scheduler: type[LRScheduler]) -> type[_PyTorchLRSchedulerWrapper]:
    """Return a callback class for a class of torch, with its name and its arguments."""
    name = scheduler.__name__
    interval = inspect.Parameter(
        "interval", inspect.Parameter.KEYWORD_ONLY, default="epoch", annotation=str
    )
    members = {
        "torch_lr_scheduler": scheduler,
        "__module__": __name__,
        "__signature__": inspect.Signature([*_parameters(scheduler), interval]),
        "__doc__": f"""``torch.optim.lr_scheduler.{name}`` as a callback.

    The arguments are torch's, without the optimizer. ``interval="batch"`` steps the schedule after
    each optimizer step instead of each epoch.
    """,
    }
    return type(name, (_PyTorchLRSchedulerWrapper,), members)


def _parameters(scheduler: type[LRScheduler]) -> list[inspect.Parameter]:
    """Return the parameters of torch's class, without the optimizer."""
    parameters = inspect.signature(scheduler).parameters
    return [parameter for name, parameter in parameters.items() if name != "optimizer"]


def _built(value: Any, optimizer: Optimizer) -> Any:
    """Return an argument, with torch's schedulers in the place of callbacks."""
    if isinstance(value, _PyTorchLRSchedulerWrapper):
        return value._build(optimizer)
    if isinstance(value, list | tuple):
        return [_built(item, optimizer) for item in value]
    return value


def _restore(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Apply a state to a scheduler, and to its optimizer what it says about the rates."""
    _check_kind(scheduler, state)
    groups = scheduler.optimizer.param_groups
    rates = state.get("_last_lr", [])
    if "_last_lr" in state and len(rates) != len(groups):
        raise CheckpointError(
            f"The state for {type(scheduler).__name__} has {len(rates)} learning rates and the "
            f"optimizer has {len(groups)} parameter groups: build the same optimizer."
        )
    scheduler.load_state_dict(copy.deepcopy(dict(state)))
    if getattr(scheduler, "cycle_momentum", False):
        _repeat_last_step(scheduler)
        scheduler.load_state_dict(copy.deepcopy(dict(state)))
    for group, rate in zip(groups, rates, strict=False):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(float(rate))
        else:
            group["lr"] = float(rate)


def _ignored_options(scheduler: LRScheduler, state: Mapping[str, Any]) -> list[str]:
    """Return the options of which a state has other values, which torch takes, as clauses."""
    own = scheduler.state_dict()
    names = [one.name for one in _parameters(type(scheduler))]
    return [
        f"{name} (got {own[name]}, before {state[name]})"
        for name in names
        if name in own and name in state and own[name] != state[name] and name != "last_epoch"
    ]


def _check_kind(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Raise if a state is another scheduler's, or something else: torch would take any names."""
    own, name = scheduler.state_dict(), type(scheduler).__name__
    # Versions of torch differ in private names, in "verbose", and in what is no argument.
    missing = [one for one in _parameters(type(scheduler)) if one.name in own]
    lacks = [one.name for one in missing if one.name not in state]
    foreign = [key for key in state if key not in own and not str(key).startswith("_")]
    foreign = [key for key in foreign if key != "verbose"]
    if lacks or foreign:
        said = [f"it lacks {quoted(lacks)}"] if lacks else []
        said += [f"it holds {quoted(map(str, foreign))}"] if foreign else []
        raise CheckpointError(
            f"The state is not one of {name}: {', and '.join(said)}. Go on with the schedulers of "
            "the training that wrote it, or train in a new directory."
        )


def _repeat_last_step(scheduler: LRScheduler) -> None:
    """Give the optimizer the momentum of the last step; such schedules have a closed form."""
    scheduler.last_epoch -= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects an optimizer step before this one
        scheduler.step()


def _copy(rate: float | Tensor) -> float | Tensor:
    return rate.clone() if isinstance(rate, Tensor) else rate


for _name, _scheduler in vars(torch.optim.lr_scheduler).items():
    if (
        inspect.isclass(_scheduler)
        and issubclass(_scheduler, LRScheduler)
        and _scheduler is not LRScheduler
        and not _name.startswith("_")
    ):
        if _name not in globals():
            globals()[_name] = _callback_for(_scheduler)
        __all__.append(_name)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[_PyTorchLRSchedulerWrapper]: ...
