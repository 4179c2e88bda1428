"""A training tried out, and everything put back as it was."""

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

from clarion.callbacks.base import Callback
from clarion.callbacks.hooks import CallbackList
from clarion.checkpoints.random import preserved_random_state
from clarion.data.order import LoaderState
from clarion.errors import DataError

if TYPE_CHECKING:
    from clarion.model.base import ModelBase

__all__ = ["first_batches", "has_lazy_layers", "preserved_order", "put_back"]

_OF_THE_RUN = (
    "stop_training",
    "stop_immediately",
    "validates",
    "validation_names",
    "validations",
    "profile",
)


def first_batches(loader: Iterable[Any], count: int, name: str) -> list[Any]:
    """Return the first raw batches of a loader, fewer if it has not as many.

    Args:
        loader: An iterable of batches.
        count: How many.
        name: What an error calls it.

    Raises:
        DataError: If there is none.
    """
    batches = list(islice(iter(loader), count))
    if not batches:
        raise DataError(f"{name} gave no batch; check that the data is not empty.")
    return batches


@contextmanager
def preserved_order(sources: Iterable[Any]) -> Iterator[None]:
    """Leave all random states, and the order of what the loaders give next, as they were.

    Args:
        sources: The loaders.
    """
    order = LoaderState(sources)
    before = order.state_dict()
    with preserved_random_state():
        try:
            yield
        finally:
            order.load_state_dict(before)


@contextmanager
def put_back(model: "ModelBase", callbacks: Iterable[Callback]) -> Iterator[list[Any]]:
    """Put the model and clarion's own callbacks back after what is done inside.

    Files that these callbacks write go into a directory that is removed; those that write to a
    service (MLflow, Weights & Biases, messages) are left out. A lazy layer stays materialised, and
    callbacks of the user's own keep what they noted.

    Args:
        model: The model, whose lazy layers have their shapes already.
        callbacks: The callbacks of the run.

    Yields:
        The callbacks to run with.
    """
    listed = _without_services(callbacks)
    ours = list(_ours(listed))
    notes = [(callback, dict(vars(callback))) for callback in ours]
    state = copy.deepcopy(model.train_state().state_dict())
    del state["under_way"]  # put back as it is; what is tried out must not go on from it
    under_way = dict(vars(model._under_way))
    model._under_way.loaded = None
    gradients = [(p, p.grad) for p in model.network.parameters()]
    of_the_run = {name: getattr(model, name) for name in _OF_THE_RUN}
    with TemporaryDirectory() as directory:
        for number, callback in enumerate(ours):
            if isinstance(callback, CallbackList):
                vars(callback).update(vars(CallbackList(_without_services(callback))))
            _redirect(callback, Path(directory) / str(number))
        try:
            yield listed
        finally:
            model.train_state().load_state_dict(state)
            vars(model._under_way).update(under_way)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for name, value in of_the_run.items():
                setattr(model, name, value)
            for callback, before in notes:
                vars(callback).clear()
                vars(callback).update(before)


def has_lazy_layers(network: torch.nn.Module) -> bool:
    """Tell whether a network has parameters or buffers that do not know their shape yet."""
    return any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers()))


def _without_services(callbacks: Iterable[Callback]) -> list[Callback]:
    # Here, since few trainings are tried out, and all would load them.
    from clarion.loggers.mlflow import MLFlowLogger
    from clarion.loggers.notification import NotificationCallback
    from clarion.loggers.wandb import WandBLogger

    services = (MLFlowLogger, NotificationCallback, WandBLogger)
    return [callback for callback in callbacks if not isinstance(callback, services)]


def _ours(callbacks: Iterable[Any]) -> Iterator[Any]:
    """Yield the callbacks of clarion's classes, and of those below them, inner ones included."""
    for callback in callbacks:
        if isinstance(callback, CallbackList):
            yield callback
            yield from _ours(callback)
            continue
        above = [cls.__module__ for cls in type(callback).__mro__ if cls is not Callback]
        if any(module.startswith("clarion.") for module in above):
            yield callback
            inner = vars(callback).values()
            yield from _ours(value for value in inner if isinstance(value, Callback))


def _redirect(callback: Any, directory: Path) -> None:
    """Make a callback write into a directory instead of where it would."""
    attributes = vars(callback)
    if isinstance(attributes.get("filename"), str | os.PathLike):
        directory.mkdir()
        callback.filename = str(directory / Path(callback.filename).name)
    if isinstance(attributes.get("temporary_filename"), str | os.PathLike):
        callback.temporary_filename = str(directory / "temporary")
    if isinstance(attributes.get("directory"), str | os.PathLike):
        callback.directory = str(directory / "files")
    if "writer" in attributes:
        callback.writer = _Nowhere()


class _Nowhere:
    """A writer for TensorBoard whose every method does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None
