"""The arguments that all ways to train share, and what they come to."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from clarion.arguments import check_listed, check_whole_number
from clarion.callbacks.hooks import with_inner
from clarion.engine.durations import seconds_of
from clarion.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    UnknownNameError,
    kind_of,
    quoted,
    suggestion,
)

__all__ = ["RunOptions", "RunSettings", "SplitOptions", "checked_callbacks"]


_BAD_ROW_POLICIES = ("stop", "skip")


class RunOptions(TypedDict, total=False):
    """Keywords of `Model.fit`, ``fit_dataset`` and ``fit_generator``, which explains them.

    One that is left out is None, or False if it is a switch.
    """

    accumulate: int | None
    validate_every: int | float | str | None
    max_steps: int | None
    max_time: float | str | None
    checkpoint_every: int | float | str | None
    on_bad_row: str | None
    check_leaks: bool
    overfit: int | None
    dry_run: bool
    profile: bool


class SplitOptions(RunOptions, total=False):
    """Keywords of `Model.fit` and ``fit_dataset``, where examples are known by their index."""

    validation_split: float | None
    split_seed: int | None
    bucket_by: str | Callable[[Any], int] | None


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The keywords of a run, checked.

    Attributes:
        batches_per_step: How many batches make an optimizer step.
        validate_every: When to validate inside an epoch, as the user wrote it.
        max_steps: Optimizer steps of the whole training; None for no limit.
        max_seconds: Seconds of this run; None for no limit.
        check_leaks: Whether to look for train examples that stand in the validation data.
        overfit: How many batches to train on again and again; None for all.
        dry_run: Whether to try out everything once and leave nothing changed.
        profile: Whether to measure where the time goes.
        skips_bad_rows: Whether train examples that cannot be loaded are left out.
        verbose: Whether to show what was measured.
    """

    batches_per_step: int = 1
    validate_every: Any = None
    max_steps: int | None = None
    max_seconds: float | None = None
    check_leaks: bool = False
    overfit: int | None = None
    dry_run: bool = False
    profile: bool = False
    skips_bad_rows: bool = False
    verbose: bool = True

    @classmethod
    def of(cls, batches_per_step: int, options: RunOptions, verbose: bool) -> "RunSettings":
        """Return the settings that keywords come to.

        Args:
            batches_per_step: The argument of this name, which ``accumulate`` is another one of.
            options: The keywords.
            verbose: Whether to show what was measured.

        Raises:
            InvalidArgumentError: If a value cannot work, or two of them contradict each other.
        """
        accumulate = options.get("accumulate")
        if accumulate is not None and batches_per_step != 1:
            raise InvalidArgumentError(
                f"accumulate={accumulate} and batches_per_step={batches_per_step} are two names "
                "of one argument. Pass one of them."
            )
        name = "batches_per_step" if accumulate is None else "accumulate"
        batches_per_step = batches_per_step if accumulate is None else accumulate
        max_steps, overfit = options.get("max_steps"), options.get("overfit")
        for key, value in ((name, batches_per_step), ("max_steps", max_steps)):
            if value is not None or key == name:
                check_whole_number(key, value, 1)
        if overfit is not None:
            check_whole_number("overfit", overfit, 1)
        if options.get("checkpoint_every") is not None:
            raise InvalidArgumentError(
                f"checkpoint_every={options['checkpoint_every']!r} needs a directory to write to, "
                "which a Model has not. Train with Experiment(directory, network, ...), whose "
                "train methods take it and go on from what they wrote."
            )
        on_bad_row = options.get("on_bad_row") or "stop"
        if on_bad_row not in _BAD_ROW_POLICIES:
            hint = suggestion(str(on_bad_row), _BAD_ROW_POLICIES) or "."
            raise UnknownNameError(
                f"Unknown on_bad_row={on_bad_row!r}{hint} Known: {quoted(_BAD_ROW_POLICIES)}."
            )
        max_time = options.get("max_time")
        return cls(
            batches_per_step=batches_per_step,
            validate_every=options.get("validate_every"),
            max_steps=max_steps,
            max_seconds=None if max_time is None else seconds_of("max_time", max_time),
            check_leaks=bool(options.get("check_leaks")),
            overfit=overfit,
            dry_run=bool(options.get("dry_run")),
            profile=bool(options.get("profile")),
            skips_bad_rows=on_bad_row == "skip",
            verbose=verbose,
        )


def checked_callbacks(callbacks: Any) -> list[Any]:
    """Return the callbacks of a run as a list.

    Raises:
        InvalidTypeError: If they are no list, or one of them is no callback.
    """
    check_listed("callbacks", callbacks)
    listed = [] if callbacks is None else list(callbacks)
    for position, callback in enumerate(listed):
        if isinstance(callback, type):
            raise InvalidTypeError(
                f"callbacks[{position}] is {kind_of(callback)}; it needs an object of it: "
                f"{callback.__name__}(...)."
            )
        if not hasattr(callback, "set_model"):
            raise InvalidTypeError(
                f"callbacks[{position}] is {kind_of(callback)}; a callback derives from "
                "clarion.Callback. For a function, use LambdaCallback(on_epoch_end=function)."
            )
    _warn_of_doubles(listed)
    return listed


def _warn_of_doubles(callbacks: list[Any]) -> None:
    known: set[int] = set()
    for callback in with_inner(callbacks):
        if id(callback) in known:
            warnings.warn(
                f"A {type(callback).__name__} stands twice among the callbacks, perhaps inside "
                "another one, so that all it does is done twice: a scheduler steps twice an epoch. "
                "Give it once; LRSchedulerCheckpoint and DelayCallback run what they are given.",
                stacklevel=2,
            )
        known.add(id(callback))
