"""A training in a directory: what listens, where it starts, what is left behind."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from clarion.arguments import check_listed
from clarion.callbacks.base import Callback
from clarion.callbacks.best_model_restore import BestModelRestore
from clarion.callbacks.checkpoint import (
    LRSchedulerCheckpoint,
    ModelCheckpoint,
    OptimizerCheckpoint,
    RandomStatesCheckpoint,
)
from clarion.callbacks.periodic import PeriodicSaveLambda, literally
from clarion.checkpoints.lock import DirectoryLock
from clarion.checkpoints.retention import Retention
from clarion.console import is_first_rank, say
from clarion.errors import (
    InvalidArgumentError,
    MissingDependencyError,
    MissingMonitorError,
    suggestion,
)
from clarion.experiment.defaults import Monitor
from clarion.experiment.directory import ExperimentDirectory
from clarion.experiment.history import read_log
from clarion.experiment.interruption import Interruption
from clarion.experiment.plotting import save_plots
from clarion.experiment.resume import ResumePoint, resume
from clarion.experiment.slot import CheckpointSlot
from clarion.experiment.training_checkpoint import TrainingCheckpoint
from clarion.experiment.trouble import DiskTrouble
from clarion.loggers.csv import AtomicCSVLogger
from clarion.loggers.tensorboard import TensorBoardLogger
from clarion.model import Model
from clarion.model.validation import validation_sets

__all__ = ["Run", "TrainOptions", "train"]

_History = list[dict[str, Any]]

_CHECKPOINT_EVERY = "10min"


@dataclass(frozen=True)
class TrainOptions:
    """The arguments of an experiment's ``train`` methods that do not go to ``fit``.

    Attributes:
        callbacks: What listens besides the experiment's own callbacks.
        lr_schedulers: Scheduler callbacks, whose states are saved.
        keep_only_last_best: Whether only the weights of the best epoch so far are kept.
        save_every_epoch: Whether the weights of every epoch are kept.
        disable_tensorboard: Whether nothing is written for TensorBoard.
        keep: How many of the newest epochs' training checkpoints are kept.
        keep_best: How many of the best epochs' training checkpoints are kept.
    """

    callbacks: Sequence[Callback] | None = None
    lr_schedulers: Sequence[Any] | None = None
    keep_only_last_best: bool = False
    save_every_epoch: bool = False
    disable_tensorboard: bool = False
    keep: int = 1
    keep_best: int = 1


@dataclass(frozen=True)
class Run:
    """What is trained on, and how.

    Attributes:
        fit: ``Model.fit``, ``fit_dataset`` or ``fit_generator``.
        data: Its positional arguments, the validation data last.
        arguments: Its other arguments.
    """

    fit: Callable[..., _History]
    data: tuple[Any, ...]
    arguments: dict[str, Any]

    @property
    def validates(self) -> bool:
        """Whether there is validation data."""
        arguments = self.arguments
        given = self.data[-1] is not None or arguments.get("validation_split") is not None
        return given or arguments.get("overfit") is not None

    @property
    def verbose(self) -> bool:
        """Whether to say what is done."""
        return bool(self.arguments.get("verbose", True))


def train(
    model: Model,
    directory: ExperimentDirectory | None,
    monitor: Monitor,
    run: Run,
    options: TrainOptions,
) -> _History:
    """Train, going on where the training in the directory ended.

    Args:
        model: The model.
        directory: Where files are written and read; None writes nothing.
        monitor: What decides which epoch is best.
        run: The data and the arguments of ``fit``.
        options: The experiment's own arguments.

    Returns:
        The history of the epochs that were run now.

    Raises:
        InvalidTypeError: If callbacks or schedulers are no lists.
        DirectoryInUseError: If another process trains in the directory.
    """
    check_listed("callbacks", options.callbacks)
    check_listed("lr_schedulers", options.lr_schedulers)
    _check_monitor(model, monitor, run)
    arguments = dict(run.arguments)
    every = arguments.pop("checkpoint_every", _CHECKPOINT_EVERY)
    if directory is None:
        schedulers, listeners = options.lr_schedulers or [], options.callbacks or []
        callbacks = [*_best_restore(monitor, run.verbose), *schedulers, *listeners]
        return run.fit(*run.data, callbacks=callbacks, **arguments)
    if "initial_epoch" in arguments:
        raise InvalidArgumentError(
            "initial_epoch is decided by the experiment, which goes on where its directory ended. "
            "Leave it out, or use another directory to begin anew."
        )
    lock = DirectoryLock(directory.lock_filename)
    # One of several ranks stands for all.
    with lock if is_first_rank() else nullcontext():
        run = replace(run, arguments=arguments)
        return _train_in(directory, lock, model, monitor, run, options, every)


def _train_in(
    directory: ExperimentDirectory,
    lock: DirectoryLock,
    model: Model,
    monitor: Monitor,
    run: Run,
    options: TrainOptions,
    checkpoint_every: int | float | str | None,
) -> _History:
    logger = AtomicCSVLogger(directory.log_filename, separator="\t")
    savers = [logger, *_savers(directory, monitor, options, run.verbose)]
    schedulers = _schedulers(directory, options)
    others = [*schedulers, *(options.callbacks or [])]
    loaders = [*run.data, run.arguments.get("dataloader_kwargs") or {}]
    trouble = DiskTrouble()
    retention = Retention(options.keep, options.keep_best)
    slot = CheckpointSlot(directory.checkpoint_directory, trouble, lock, retention)
    last = TrainingCheckpoint(slot, [*savers, *others], loaders, monitor, checkpoint_every)
    point = resume(model, directory, [*savers, *others], last, run.arguments, verbose=run.verbose)
    if is_first_rank():
        slot.catch_up()
    logger.append = point.epoch > 0
    own = [*savers, *_tensorboard(directory, options), *schedulers]
    callbacks = [*map(trouble.outlived_by, own), *(options.callbacks or []), last]
    first = point.epoch + 1
    arguments = {**run.arguments, **_when_done(point, run.arguments, run.verbose)}
    interruption = Interruption(last)
    callbacks.append(interruption)
    try:
        with interruption:
            return run.fit(*run.data, callbacks=callbacks, initial_epoch=first, **arguments)
    finally:
        if not interruption.has_left:  # there may be seconds until a kill
            _plot(directory)


def _when_done(point: ResumePoint, arguments: Mapping[str, Any], verbose: bool) -> dict[str, Any]:
    """Say so if no epoch is left to do; return the arguments of ``fit`` that change then."""
    if point.is_finished:
        if verbose:
            say(
                f"Early stopping ended this training at epoch {point.epoch}: nothing is left to "
                "do. To go on, raise its patience."
            )
        return {"epochs": point.epoch}
    if verbose and point.epoch and arguments.get("epochs", math.inf) <= point.epoch:
        say(f"Epoch {point.epoch} is done already. To go on, ask for more epochs.")
    return {}


def _check_monitor(model: Model, monitor: Monitor, run: Run) -> None:
    """Raise before anything is trained if what is to be watched will not be in the logs."""
    if monitor.metric is None:
        return
    measured = ["loss", *model.metrics_names]
    known = ["epoch", "time", *measured]
    if run.validates:
        sets = validation_sets(run.data[-1], "validation_data")
        prefixes = ["val_", *(f"val_{name}_" for name in sets if name)]
        known += [f"{prefix}{name}" for prefix in prefixes for name in measured]
    if monitor.metric in known:
        return
    remedy = "Set monitor_metric to one of these, or monitoring=False."
    if monitor.metric.startswith("val_") and not run.validates:
        remedy = f"Pass validation data. {remedy}"
    raise MissingMonitorError(
        f'The experiment watches monitor_metric="{monitor.metric}", which the logs will not hold'
        f"{suggestion(monitor.metric, known) or '.'} They will hold: {', '.join(known)}. {remedy}"
    )


def _best_restore(monitor: Monitor, verbose: bool) -> list[Callback]:
    if monitor.metric is None or monitor.mode is None:
        return []
    return [BestModelRestore(monitor=monitor.metric, mode=monitor.mode, verbose=verbose)]


def _savers(
    directory: ExperimentDirectory, monitor: Monitor, options: TrainOptions, verbose: bool
) -> list[Callback]:
    """Return the callbacks that write the files that Poutyne knows, in its order."""
    return [
        *_best_callbacks(directory, monitor, options, verbose),
        ModelCheckpoint(literally(directory.model_checkpoint_filename)),
        OptimizerCheckpoint(literally(directory.optimizer_checkpoint_filename)),
        RandomStatesCheckpoint(literally(directory.random_state_checkpoint_filename)),
        PeriodicSaveLambda(_write_epoch, literally(directory.epoch_filename), open_mode="w"),
    ]


def _schedulers(directory: ExperimentDirectory, options: TrainOptions) -> list[Callback]:
    return [
        LRSchedulerCheckpoint(scheduler, literally(directory.lr_scheduler_filename % i))
        for i, scheduler in enumerate(options.lr_schedulers or [])
    ]


def _best_callbacks(
    directory: ExperimentDirectory, monitor: Monitor, options: TrainOptions, verbose: bool
) -> list[Callback]:
    filename = directory.best_checkpoint_filename
    if options.save_every_epoch:
        every = ModelCheckpoint(filename, verbose=verbose)
        return [*_best_restore(monitor, verbose), every]
    if monitor.metric is None or monitor.mode is None:
        return []
    return [
        ModelCheckpoint(
            filename,
            monitor=monitor.metric,
            mode=monitor.mode,
            save_best_only=True,
            keep_only_last_best=options.keep_only_last_best,
            restore_best=True,
            verbose=verbose,
        )
    ]


def _tensorboard(directory: ExperimentDirectory, options: TrainOptions) -> list[Callback]:
    if options.disable_tensorboard or not is_first_rank():
        return []
    try:
        return [TensorBoardLogger(directory.tensorboard_directory)]
    except MissingDependencyError as error:
        warnings.warn(
            f"{error}. The training goes on without it; disable_tensorboard=True leaves it out.",
            stacklevel=6,
        )
        return []


def _write_epoch(file: IO[str], epoch_number: int, logs: dict[str, Any]) -> None:
    file.write(f"{epoch_number}\n")


def _plot(directory: ExperimentDirectory) -> None:
    """Draw the log, if there is one and matplotlib; an error here must not hide the training's."""
    if not is_first_rank():
        return
    try:
        rows = read_log(directory.log_filename)
        if rows:
            save_plots(rows, directory=Path(directory.plots_directory))
    except MissingDependencyError:
        pass
    except Exception as error:
        warnings.warn(
            f"The log could not be drawn in {directory.plots_directory}: {error}", stacklevel=4
        )
