"""What all ways to train come to."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from clarion.arguments import check_whole_number
from clarion.callbacks.base import Callback
from clarion.checkpoints.random import preserved_random_state
from clarion.console import say
from clarion.data.arrays import place
from clarion.data.bad_rows import BadRows
from clarion.data.feed import Feed
from clarion.data.inspection import describe_shared, shared_examples, warn_of_sorted_labels
from clarion.data.loaders import check_iterable, check_steps, num_batches
from clarion.engine.cadence import make_cadence
from clarion.engine.engine import evaluating
from clarion.engine.limits import Limits
from clarion.engine.loop import Training, fit, run_stage
from clarion.engine.optimizers import place_optimizer_state, warn_of_left_out
from clarion.engine.profile import Profiler
from clarion.engine.reading import Source
from clarion.engine.stage import PREDICT, TEST
from clarion.engine.step import predict_step
from clarion.model.base import ModelBase
from clarion.model.options import RunSettings
from clarion.model.rehearsal import first_batches, has_lazy_layers, preserved_order, put_back
from clarion.model.validation import valid_sources

__all__ = ["Running"]

_History = list[dict[str, Any]]


_NOT_REHEARSED: dict[str, Any] = {
    "max_steps": None,
    "max_seconds": None,
    "check_leaks": False,
    "profile": False,
}


class Running(ModelBase):
    """Training on loaders, once they are made."""

    def _fit(
        self,
        train: Iterable[Any],
        valid: Mapping[str, Iterable[Any]],
        *,
        epochs: int,
        steps_per_epoch: int | None,
        validation_steps: int | None,
        initial_epoch: int,
        callbacks: list[Callback],
        settings: RunSettings,
    ) -> _History:
        check_steps("steps_per_epoch", steps_per_epoch)
        check_steps("validation_steps", validation_steps)
        check_whole_number("epochs", epochs, 0)
        check_whole_number("initial_epoch", initial_epoch, 1)
        check_iterable("train_generator", train)
        if settings.overfit is not None:
            train = first_batches(train, settings.overfit, "The train data")
            valid, steps_per_epoch, validation_steps = {"": train}, None, None
        if settings.dry_run:
            return self._rehearse(train, valid, initial_epoch, callbacks, settings)
        self._inspect(train, valid, settings)
        for loader in (train, *valid.values()):
            place(loader, self._device)
        steps = num_batches(train) if steps_per_epoch is None else steps_per_epoch
        measured = ["loss", *self.metrics_names]
        sources = valid_sources(valid, validation_steps, steps_per_epoch, measured)
        feed = Feed(
            train,
            remembers=True,
            bad_rows=BadRows(self.progress) if settings.skips_bad_rows else None,
        )
        self._under_way.begin(feed, initial_epoch)
        self.stop_training = self.stop_immediately = False
        self.validates = bool(sources)
        self.validation_names = [source.name for source in sources if source.name]
        self.validations = self._under_way.validations
        training = Training(
            train=Source(feed, steps),
            valid=sources,
            epochs=epochs,
            under_way=self._under_way,
            initial_epoch=initial_epoch,
            batches_per_step=settings.batches_per_step,
            max_steps=settings.max_steps,
        )
        training = replace(
            training,
            epochs=training.last_epoch(self.progress.step, self.progress.batch),
            cadence=make_cadence(settings.validate_every, training.steps_per_epoch, self._strategy),
        )
        params: dict[str, Any] = {"epochs": training.epochs, "steps": steps}
        lengths = {source.steps for source in sources} or {validation_steps}
        if len(lengths) == 1 and None not in lengths:
            params["valid_steps"] = lengths.pop()
        if settings.max_steps is not None or settings.max_seconds is not None:
            callbacks = [*callbacks, Limits(settings.max_steps, settings.max_seconds)]
        engine = self._engine(callbacks, params, trains=True)
        engine.last_step = settings.max_steps
        place_optimizer_state(self.optimizer)
        profiler = Profiler(self.network) if settings.profile else None
        with self._being_trained():
            history = fit(engine if profiler is None else profiler.attached_to(engine), training)
        if not history:
            feed.tell_if_unread()
        if profiler is not None:
            self.profile = profiler.result()
        self._report(settings)
        return history

    def _report(self, settings: RunSettings) -> None:
        report = self.profile if settings.profile else self.compilation
        if settings.verbose and report is not None:
            say(str(report))

    def _inspect(
        self, train: Iterable[Any], valid: Mapping[str, Iterable[Any]], settings: RunSettings
    ) -> None:
        """Warn of mistakes that can be seen before anything is trained."""
        if self._chose_parameters:
            warn_of_left_out(self.optimizer, self.network)
        keys = self._router.target_keys
        if settings.overfit is None:
            warn_of_sorted_labels(train, keys)
        if not valid:
            _warn_of_idle(settings)
        if not settings.check_leaks:
            return
        with preserved_random_state():  # datasets may draw
            for name, loader in valid.items():
                shared = shared_examples(train, loader, keys)
                if shared:
                    warnings.warn(describe_shared(shared, name), stacklevel=2)

    def _rehearse(
        self,
        train: Iterable[Any],
        valid: Mapping[str, Iterable[Any]],
        initial_epoch: int,
        callbacks: list[Callback],
        settings: RunSettings,
    ) -> _History:
        """Go through every stage with a batch each, and put everything back."""
        with preserved_order([train, *valid.values()]):
            batches = first_batches(train, 1, "The train data")
            sets = {
                name: first_batches(loader, 1, f'The validation data "{name}"')
                for name, loader in valid.items()
            }
            if has_lazy_layers(self.network):
                batch = self._router.prepare(self._router.route(batches[0]), self._device)
                with evaluating(self._engine()) as engine:
                    predict_step(engine, batch, PREDICT, 1)
            with put_back(self, callbacks) as listed:
                history = self._fit(
                    batches,
                    sets,
                    epochs=initial_epoch,
                    steps_per_epoch=None,
                    validation_steps=None,
                    initial_epoch=initial_epoch,
                    callbacks=listed,
                    settings=replace(settings, dry_run=False, **_NOT_REHEARSED),
                )
                engine = self._engine(listed, {"steps": 1})
                for stage in (TEST, PREDICT):
                    run_stage(engine, stage, Source(Feed(batches), 1))
        return history


def _warn_of_idle(settings: RunSettings) -> None:
    """Warn of what was asked for and does nothing where there is no validation data."""
    asked = {"validate_every": settings.validate_every is not None}
    asked["check_leaks"] = settings.check_leaks
    idle = [name for name, is_asked in asked.items() if is_asked]
    if idle:
        warnings.warn(
            f"There is no validation data, so {' and '.join(idle)} will do nothing. Pass "
            f"validation data, or leave {'them' if len(idle) > 1 else 'it'} out.",
            stacklevel=2,
        )
