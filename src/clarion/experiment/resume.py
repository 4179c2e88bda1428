"""Going on where a training ended: from the training checkpoint, or from Poutyne's files."""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.callbacks.best_model_restore import BestModelRestore
from clarion.callbacks.checkpoint import LRSchedulerCheckpoint, ModelCheckpoint
from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.hooks import with_inner
from clarion.checkpoints.apply import apply_weights, check_optimizer_state, differences
from clarion.checkpoints.manifest import NewerFormatError, environment
from clarion.checkpoints.random import load_random_states
from clarion.checkpoints.reader import Checkpoint, read_newest
from clarion.checkpoints.weights import load_state
from clarion.console import is_first_rank, say
from clarion.errors import CheckpointError, quoted
from clarion.experiment.directory import ExperimentDirectory
from clarion.experiment.history import best_row, cut_log, read_log
from clarion.experiment.training_checkpoint import TrainingCheckpoint, as_json, options_of
from clarion.model import Model

__all__ = ["ResumePoint", "resume"]

_SHOWN = 10  # epochs in a warning


@dataclass(frozen=True)
class ResumePoint:
    """What a training goes on with.

    Attributes:
        epoch: The last epoch that is done; 0 for none.
        is_finished: Whether early stopping ended the training there, and still would.
    """

    epoch: int = 0
    is_finished: bool = False


def resume(
    model: Model,
    directory: ExperimentDirectory,
    callbacks: Sequence[Any],
    checkpoint_writer: TrainingCheckpoint,
    arguments: Mapping[str, Any],
    *,
    verbose: bool,
) -> ResumePoint:
    """Put model, callbacks and random states where the training in the directory ended.

    The training checkpoint decides, if there is one: it is written last and whole. A directory
    that Poutyne wrote has only the files of its own, which are loaded one by one. Rows of the log
    that came later are removed, if there is anything left to do.

    Args:
        model: The model, built as it was.
        directory: The experiment.
        callbacks: The callbacks of the training.
        checkpoint_writer: The one that writes its checkpoint; it has them all.
        arguments: The arguments of ``fit``.
        verbose: Whether to say what is loaded.

    Raises:
        CheckpointError: If what is there cannot be read, or does not fit the model; or if several
            ranks find different things there.
    """
    checkpoint = _newest(directory)
    _check_that_ranks_agree(model, directory, checkpoint)
    if checkpoint is not None:
        epoch = _epoch_of(checkpoint)
        _from_checkpoint(model, directory, checkpoint_writer, checkpoint)
        if verbose:
            batch = model.progress.batch
            where = f"starting at epoch {epoch + 1}"
            if batch:
                where = f"going on in epoch {epoch + 1} after batch {batch}"
            say(
                "Loading weights, optimizer, schedules, callbacks and random states from "
                f"{checkpoint.directory} and {where}."
            )
    elif os.path.exists(directory.epoch_filename):
        epoch = _read_epoch(directory.epoch_filename)
        _from_files(model, directory, callbacks, epoch, verbose)
    else:
        return ResumePoint()
    goes_on = not _is_done(model, arguments)
    if goes_on and checkpoint is not None:
        _warn_of_other_options(model, checkpoint)
    if goes_on and is_first_rank():
        _cut_log(directory.log_filename, epoch)
    model.strategy.agree(True)  # the others read what is left
    if os.path.exists(directory.log_filename):
        _restore_bests(directory, callbacks)
    checkpoint_writer.keep_random_state()
    stoppers = [one for one in with_inner(callbacks) if isinstance(one, EarlyStopping)]
    was_stopped = checkpoint is not None and checkpoint.state["progress"].get("stopped")
    still = any(one.stopped_epoch == epoch and one.wait >= one.patience for one in stoppers)
    return ResumePoint(epoch, is_finished=bool(was_stopped and still))


def _is_done(model: Model, arguments: Mapping[str, Any]) -> bool:
    """Tell whether all epochs or optimizer steps that are asked for are done."""
    progress, max_steps = model.progress, arguments.get("max_steps")
    steps_done = max_steps is not None and progress.step >= max_steps
    return bool(steps_done or progress.epoch >= arguments.get("epochs", math.inf))


def _cut_log(path: str, epoch: int) -> None:
    """Remove the rows that will be done again, and warn of those that are not there."""
    missing = cut_log(path, epoch)
    if missing:
        numbers = ", ".join(map(str, missing[:_SHOWN])) + (
            " and others" if missing[_SHOWN:] else ""
        )
        warnings.warn(
            f'"{path}" lacks the rows of {len(missing)} of the {epoch} epochs that are done: '
            f'{numbers}. The training goes on without them, and "best" means the best of the other '
            "epochs. If there is a copy of the file, put it in its place before.",
            stacklevel=4,
        )


def _newest(directory: ExperimentDirectory) -> Checkpoint | None:
    try:
        return read_newest(directory.checkpoint_directory)
    except NewerFormatError:
        raise
    except CheckpointError as error:
        if not os.path.exists(directory.epoch_filename):
            raise
        warnings.warn(
            f"{error} The files beside it are used instead ({directory.epoch_filename}, ...).",
            stacklevel=4,
        )
        return None


def _check_that_ranks_agree(
    model: Model, directory: ExperimentDirectory, checkpoint: Checkpoint | None
) -> None:
    found = None if checkpoint is None else checkpoint.manifest.info
    others = model.strategy.gather((found, os.path.exists(directory.epoch_filename)))
    for rank, theirs in enumerate(others):
        if theirs != others[0]:
            raise CheckpointError(
                f'Rank 0 and rank {rank} find different checkpoints in "{directory.directory}". '
                "The directory has to be on a disk that all ranks share."
            )


def _epoch_of(checkpoint: Checkpoint) -> int:
    info = checkpoint.manifest.info
    if "epoch" not in info:
        raise CheckpointError(
            f'Cannot resume from "{checkpoint.directory}": its manifest does not tell the epoch; '
            f"it tells {quoted(info) or 'nothing'}. Use another copy of it."
        )
    return int(info["epoch"])


def _from_checkpoint(
    model: Model,
    directory: ExperimentDirectory,
    writer: TrainingCheckpoint,
    checkpoint: Checkpoint,
) -> None:
    source = checkpoint.directory
    weights, optimizer_state = checkpoint.state["network"], checkpoint.state.get("optimizer")
    _check_optimizer(model, checkpoint)
    _check_optimizer_state(model, optimizer_state, source, weights)
    apply_weights(model.network, weights, source=source, action="resume from")
    _check_optimizer_state(model, optimizer_state, source)  # if the network has mended the weights
    try:
        writer.state_of(model).load_state_dict(checkpoint.state)
    except CheckpointError as error:
        raise CheckpointError(f'Cannot resume from "{source}": {error}') from error
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f'Cannot resume from "{source}": {type(error).__name__}: {error}. Build the model and '
            "the callbacks as they were, or train in a new directory."
        ) from error
    for path in (
        directory.model_checkpoint_filename,
        directory.optimizer_checkpoint_filename,
        directory.random_state_checkpoint_filename,
        directory.epoch_filename,
    ):
        # Inside the first epoch there is none yet.
        if model.progress.epoch and not os.path.exists(path):
            warnings.warn(
                f"Missing checkpoint: {path}. What it held is taken from {source}.", stacklevel=5
            )
    _tell_of_other_settings(checkpoint)


def _check_optimizer(model: Model, checkpoint: Checkpoint) -> None:
    """Raise if the optimizer is another one; torch would take over what it cannot use."""
    written = checkpoint.manifest.info.get("optimizer")
    own = type(model.optimizer).__name__
    if written not in (None, own):
        raise CheckpointError(
            f'Cannot resume from "{checkpoint.directory}": the optimizer was {written} and is now '
            f"{own}. Build the same optimizer, or train in a new directory."
        )


def _warn_of_other_options(model: Model, checkpoint: Checkpoint) -> None:
    """Warn of options that the optimizer was built with anew and that the training does not take.

    What it was built with is compared, since schedules and callbacks change what it goes on with.
    """
    then = checkpoint.manifest.info.get("options", {})
    now = options_of(model.optimizer)
    groups = getattr(model.optimizer, "param_groups", [])
    ignored = [
        f"{name} (got {now[name]}, checkpoint {then[name]})"
        for name in now
        if name in then
        and now[name] != then[name]
        and any(as_json(group.get(name)) != now[name] for group in groups)
    ]
    if ignored and is_first_rank():
        warnings.warn(
            f'The optimizer goes on with the options of "{checkpoint.directory}", not with those '
            f"that it is built with now: {', '.join(ignored)}. To change one, set it in "
            "model.optimizer.param_groups in a callback's on_train_begin, or train in a new "
            "directory.",
            stacklevel=7,
        )


def _check_optimizer_state(
    model: Model, state: Any, source: object, weights: Mapping[str, Any] | None = None
) -> None:
    """Raise if the state does not fit; weights that do not are told in its place, later."""
    if state is not None and (weights is None or not differences(model.network, weights)):
        check_optimizer_state(
            model.optimizer, state, model.network, source=source, action="resume from"
        )


def _tell_of_other_settings(checkpoint: Checkpoint) -> None:
    """Say which settings differ that may change the last bits of the results."""
    now = environment()
    then = checkpoint.manifest.environment
    changed = [
        f"{name} {then[name]} -> {now[name]}"
        for name in ("torch", "threads", "default_dtype", "deterministic", "matmul_precision")
        if name in then and then[name] != now[name]
    ]
    if changed:
        say(
            "The training goes on under other settings, so its results may differ in the last "
            f"digits from those of one that never stopped: {', '.join(changed)}."
        )


def _from_files(
    model: Model,
    directory: ExperimentDirectory,
    callbacks: Sequence[Any],
    epoch: int,
    verbose: bool,
) -> None:
    def load(what: str, path: str, function: Callable[[str], Any]) -> None:
        if not os.path.exists(path):
            warnings.warn(f"Missing checkpoint: {path}.", stacklevel=5)
            return
        if verbose:
            say(f"Loading {what} from {path} and starting at epoch {epoch + 1:d}.")
        function(path)

    def load_weights(path: str) -> None:
        apply_weights(model.network, load_state(path), source=path, action="resume from")

    weights, path = directory.model_checkpoint_filename, directory.optimizer_checkpoint_filename
    if os.path.exists(path):  # before anything is changed
        found = load_state(weights) if os.path.exists(weights) else None
        _check_optimizer_state(model, load_state(path), path, found)
    load("weights", directory.model_checkpoint_filename, load_weights)
    load("optimizer state", directory.optimizer_checkpoint_filename, model.load_optimizer_state)
    load("random states", directory.random_state_checkpoint_filename, load_random_states)
    schedulers = [one for one in callbacks if isinstance(one, LRSchedulerCheckpoint)]
    for i, scheduler in enumerate(schedulers):
        path = directory.lr_scheduler_filename % i
        load("LR scheduler state", path, scheduler.lr_scheduler.load_state)
    model.progress.epoch = epoch


def _restore_bests(directory: ExperimentDirectory, callbacks: Sequence[Any]) -> None:
    """Tell the callback that keeps the best epoch which one it is, as the log has it.

    The memory that the checkpoint holds says the same, unless the experiment was told to watch or
    to save something else in between. Callbacks inside others are left alone: one that slept for
    some epochs does not know of the best of them.
    """
    rows = read_log(directory.log_filename)
    for callback in callbacks:
        saves_bests = (
            isinstance(callback, ModelCheckpoint)
            and callback.save_best_only
            and callback.filename == directory.best_checkpoint_filename
        )
        if not saves_bests and not isinstance(callback, BestModelRestore):
            continue
        if saves_bests:
            callback.accept_fresh_start()
        if not rows or callback.monitor not in rows[0]:
            continue
        best = best_row(rows, callback.monitor, callback.mode)
        if best is None:
            continue
        value, path = best[callback.monitor], directory.best_checkpoint_of(best["epoch"])
        is_there = os.path.exists(path)
        if saves_bests:
            found = {"best_filename": path if is_there else None, "current_best": value}
            callback.load_state_dict(found)
        elif is_there and callback.current_best != value:
            callback.load_state_dict({"best_weights": load_state(path), "current_best": value})


def _read_epoch(path: str) -> int:
    try:
        return int(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f'"{path}" should hold the number of the last epoch and does not: {error}.'
        ) from error
