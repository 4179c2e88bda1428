"""The only loop over batches, and the epochs made of it."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from sys import getrefcount
from time import perf_counter
from typing import Any

import torch

from clarion.checkpoints.random import preserved_random_state
from clarion.data.batch import Batch
from clarion.data.memory import ONE_HOLDER
from clarion.engine.ahead import Ahead, nobody_listens
from clarion.engine.cadence import Cadence
from clarion.engine.engine import Engine, evaluating
from clarion.engine.grouping import group_by_step
from clarion.engine.logs import Logs, to_floats
from clarion.engine.parts import Plan
from clarion.engine.ranks import is_stopped, note_rank, unite
from clarion.engine.reading import Source, may_be_read_ahead, read, read_ahead
from clarion.engine.recounting import recount
from clarion.engine.stage import TRAIN, VALID, Stage, valid_stage
from clarion.engine.state import Progress
from clarion.engine.step import Output
from clarion.engine.steps import Step, step_of
from clarion.engine.transforming import transformed_batches
from clarion.engine.under_way import UnderWay
from clarion.layers.modes import mode
from clarion.metrics.collection import Measured

__all__ = [
    "Training",
    "fit",
    "run_batches",
    "run_pass",
    "run_stage",
    "stream_stage",
]

_Keep = Callable[[Batch, Output], None]
_LOSS = ("loss",)


@dataclass(frozen=True, slots=True)
class Training:
    """What ``fit`` is to do.

    Attributes:
        train: The batches to learn from.
        valid: The sets to validate on after each epoch.
        epochs: The number of the last epoch.
        under_way: What is kept of the training for checkpoints, and where it goes on.
        initial_epoch: The number of the first one.
        batches_per_step: How many batches make an optimizer step.
        max_steps: Optimizer steps after which the training ends anyway; None for no limit.
        cadence: When to validate inside an epoch too.
    """

    train: Source
    valid: Sequence[Source]
    epochs: int
    under_way: UnderWay
    initial_epoch: int = 1
    batches_per_step: int = 1
    max_steps: int | None = None
    cadence: Cadence = field(default_factory=Cadence)

    @property
    def steps_per_epoch(self) -> int | None:
        """The optimizer steps of an epoch; None if the data has no length."""
        steps = self.train.steps
        return None if steps is None else math.ceil(steps / self.batches_per_step)

    @property
    def total_steps(self) -> int | None:
        """The optimizer steps of all epochs from the first; None if that cannot be known."""
        if self.steps_per_epoch is None:
            return self.max_steps
        total = self.steps_per_epoch * self.epochs
        return total if self.max_steps is None else min(total, self.max_steps)

    def last_epoch(self, done_steps: int, done_batches: int = 0) -> int:
        """Return the number of the last epoch that anything is left to do in.

        Args:
            done_steps: Optimizer steps that are done already.
            done_batches: The batches among theirs that belong to the first epoch.
        """
        before = self.initial_epoch - 1
        if self.max_steps is None:
            return self.epochs
        left = self.max_steps - done_steps
        if left <= 0:
            return before
        if self.steps_per_epoch is None:
            return self.epochs
        left += math.ceil(done_batches / self.batches_per_step)
        return min(self.epochs, before + math.ceil(left / self.steps_per_epoch))


def fit(engine: Engine, training: Training) -> list[dict[str, Any]]:
    """Train for some epochs and return their logs.

    Each epoch is a train pass and, if there is validation data, a valid pass, which leaves the
    random states as they were: validating changes nothing in what is learnt. If train batches of
    the first epoch are done already, it goes on after them; its hooks are called again.
    """
    hooks, control, update = engine.hooks, engine.control, engine.update
    assert update is not None
    history: list[dict[str, Any]] = []
    training.under_way.plan(training.epochs, update.guard.settle)
    with _announced_errors(engine):
        engine.strategy.settle(engine.network)
        update.begin(
            Plan(
                training.epochs,
                training.total_steps,
                engine.progress.step,
                training.batches_per_step,
                inside=engine.progress.batch > 0,
            )
        )
        with _undrawn(engine.progress):
            hooks.fire("on_train_begin", {})
        for epoch in range(training.initial_epoch, training.epochs + 1):
            logs = _run_epoch(engine, training, epoch)
            history.append(logs)
            hooks.fire("on_epoch_end", epoch, logs)
            # What is agreed also tells that rank 0 has written its files.
            control.stop_training = engine.strategy.agree(control.stop_training)
            if control.stop_training:
                break
        hooks.fire("on_train_end", {})
        engine.strategy.agree(True)
    return history


def run_stage(
    engine: Engine, stage: Stage, source: Source, keep: _Keep | None = None
) -> dict[str, Any]:
    """Evaluate or predict: one pass between the hooks of its stage, errors announced."""
    with _announced_errors(engine):
        engine.strategy.settle(engine.network)
        return _hooked_pass(engine, stage, source, keep)


def stream_stage(
    engine: Engine, stage: Stage, source: Source
) -> Generator[tuple[Batch, Output], None, None]:
    """Predict batch by batch, as they are asked for, between the hooks of the stage.

    Between two batches the network is in the mode it was in before. An iterator that is closed
    early ends the pass as if its batches had been all.
    """
    start = perf_counter()
    with _announced_errors(engine):
        engine.hooks.fire(stage.begin, {})
        batches = read(engine, source, _where(stage, source))
        outputs = run_batches(engine.without_gradients(), stage, batches)
        found: tuple[Batch, Output] | None
        try:
            while True:
                with mode(engine.network, training=False), torch.no_grad():
                    found = next(outputs, None)
                if found is None:
                    break
                yield found
        except GeneratorExit:
            outputs.close()
            batches.close()
        engine.hooks.fire(stage.end, {"time": perf_counter() - start})


def run_pass(
    engine: Engine,
    stage: Stage,
    batches: Iterable[Batch],
    keep: _Keep | None = None,
    done: int = 0,
    step: Step | None = None,
) -> None:
    """Run every batch through the stage's step.

    Args:
        engine: What a step works with.
        stage: Which stage this is; it decides on the step and the hooks.
        batches: The batches, ready for the network.
        keep: What is called with each batch and its output, to collect them.
        done: How many batches of the pass were done before.
    """
    for batch, output in run_batches(engine, stage, batches, done, step):
        if keep is not None:
            keep(batch, output)


def run_batches(
    engine: Engine,
    stage: Stage,
    batches: Iterable[Batch],
    done: int = 0,
    step: Step | None = None,
) -> Generator[tuple[Batch, Output], None, None]:
    """Run each batch through the stage's step when it is asked for; the only loop over batches.

    Args: see `run_pass`.

    Yields:
        Each batch and its output, after the hooks of the batch.
    """
    hooks, progress = engine.hooks, engine.progress
    step = step or step_of(engine, stage)
    begins, ends = stage.batch_begin in hooks, stage.batch_end in hooks
    is_due = hooks.only_at_times(stage.batch_end) if ends else None
    trains = stage.trains
    at_edge = engine.at_edge if trains else None
    clock = perf_counter()
    for number, batch in enumerate(batches, start=done + 1):
        if begins:
            hooks.fire(stage.batch_begin, number, {})
        output = step(engine, batch, stage, number)
        if trains:
            progress.batch = number
        if ends and (is_due is None or is_due(number)):
            now = perf_counter()
            logs = _batch_logs(engine, stage, batch, output, number, now - clock)
            hooks.fire(stage.batch_end, number, logs)
            if getrefcount(logs) > ONE_HOLDER:  # somebody keeps it, and may read it at any time
                logs.settle()
            clock = now
        yield batch, output
        if at_edge is not None and batch.closes_step:
            at_edge(number)
        if trains and batch.closes_step and is_stopped(engine):
            break


def _run_epoch(engine: Engine, training: Training, epoch: int) -> dict[str, Any]:
    hooks, progress, update = engine.hooks, engine.progress, engine.update
    assert update is not None
    training.under_way.clock = start = perf_counter() - training.under_way.seconds
    done, per_step = progress.batch, training.batches_per_step
    update.begin_epoch(epoch)
    with _undrawn(progress):
        hooks.fire("on_epoch_begin", epoch, {})
    where = f"the train loader in epoch {epoch}"
    with engine.metrics.one_pass():
        training.under_way.restore_metrics(engine.device, engine.strategy.rank)
        with mode(engine.network, training=True), torch.enable_grad():
            batches = group_by_step(
                transformed_batches(engine, read(engine, training.train, where, epoch, done)),
                per_step,
                engine.objective.weigh,
                engine.strategy,
            )
            validate = partial(_validate, engine, training, epoch)
            steps = math.ceil(done / per_step)
            timed = training.cadence.among(batches, progress, validate, steps)
            run_pass(engine, TRAIN, timed, done=done)
            update.end_pass()
        unite(engine.metrics, engine.strategy)
        logs = to_floats(engine.metrics.compute(TRAIN.prefix))
    update.end_epoch(epoch)
    source = training.train
    recount(
        engine,
        update.average,
        source.feed.loader,
        lambda feed: read(engine, replace(source, feed=feed), where),
    )
    logs |= _validate(engine, training, epoch)
    progress.epoch, progress.batch = epoch, 0
    return {"epoch": epoch, "time": perf_counter() - start, **logs}


def _validate(engine: Engine, training: Training, epoch: int) -> dict[str, Any]:
    """Run a valid pass over each set; return their logs, those of the first under plain names."""
    logs: dict[str, Any] = {}
    engine.strategy.settle(engine.network, buffers_only=True)
    if not training.valid:
        return logs
    assert engine.update is not None
    with preserved_random_state(), engine.update.averaged_weights():
        for source in training.valid:
            stage = valid_stage(source.name)
            found = _hooked_pass(engine, stage, source)
            found = {key: value for key, value in found.items() if key != "time"}
            if not logs:
                logs = {VALID.prefix + key.removeprefix(stage.prefix): found[key] for key in found}
            logs |= found
    training.under_way.validations.append({"epoch": epoch, "step": engine.progress.step, **logs})
    return logs


def _hooked_pass(
    engine: Engine, stage: Stage, source: Source, keep: _Keep | None = None
) -> dict[str, Any]:
    start = perf_counter()
    engine.hooks.fire(stage.begin, {})
    logs: dict[str, Any] = {"time": 0.0}
    with engine.metrics.one_pass() if stage.scores else nullcontext():
        with evaluating(engine) as runner:
            step, where = step_of(runner, stage), _where(stage, source)
            ahead: Ahead | None = getattr(step, "ahead", None)
            if ahead and nobody_listens(engine, stage) and may_be_read_ahead(engine, source):
                batches = ahead.run(runner, stage, read_ahead(engine, source, where))
            else:
                batches = read(engine, source, where)
            run_pass(runner, stage, batches, keep, step=step)
        if stage.scores:
            unite(engine.metrics, engine.strategy)
            logs |= to_floats(engine.metrics.compute(stage.prefix))
    logs["time"] = perf_counter() - start
    engine.hooks.fire(stage.end, logs)
    return logs


def _where(stage: Stage, source: Source) -> str:
    return f"the {stage.name} loader" + (f' "{source.name}"' if source.name else "")


def _batch_logs(
    engine: Engine, stage: Stage, batch: Batch, output: Output, number: int, seconds: float
) -> Logs:
    if not stage.scores:
        return Logs({"batch": number, "time": seconds})
    plain = {"batch": number, "size": batch.size, "time": seconds}
    return Logs(plain, partial(_measured, output, engine.metrics.measured_later()), stage.prefix)


def _measured(output: Output, of_metrics: Callable[[], Sequence[Measured]]) -> list[Measured]:
    return [(_LOSS, _LOSS, output.loss), *of_metrics(), *output.noted]


def _undrawn(progress: Progress) -> AbstractContextManager[None]:
    """Return a context in which hooks draw nothing, if they have drawn it in this epoch before."""
    return preserved_random_state() if progress.batch else nullcontext()


@contextmanager
def _announced_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        note_rank(error, engine)
        engine.hooks.announce(error)
        raise
