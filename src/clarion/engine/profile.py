"""Where the time of a training goes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import nn

from clarion.data.feed import Feed
from clarion.engine.engine import Engine

__all__ = ["Profile", "Profiler"]

_PARTS = ("data", "forward", "backward", "optimizer", "metrics", "hooks", "validation", "other")


@dataclass(frozen=True)
class Profile:
    """What took the time of a training; ``str()`` of it is a table.

    Attributes:
        seconds: The seconds of each part: ``data`` (reading batches and moving them to the
            device), ``forward`` (the network and the loss), ``backward``, ``optimizer`` (with what
            takes part in its step), ``metrics``, ``hooks`` (callbacks, the progress included),
            ``validation`` (all of it), ``other``.
        batches: How many train batches there were.
    """

    seconds: dict[str, float]
    batches: int

    @property
    def total(self) -> float:
        """The seconds of the whole training."""
        return sum(self.seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part in the whole, in [0, 1]."""
        total = self.total
        return {name: seconds / total for name, seconds in self.seconds.items()}

    def __str__(self) -> str:
        lines = [f"Where the time went ({self.total:.2f} s, {self.batches} train batches):"]
        shares = self.shares
        lines += [
            f"  {name:<10} {seconds:9.3f} s {shares[name]:7.1%}"
            for name, seconds in self.seconds.items()
        ]
        return "\n".join(lines)


class Profiler:
    """Measures the parts of an engine from outside; one that is not profiled has none of this.

    What is done inside a part counts for the inner one alone. On a CUDA device each change waits
    until the device is through, so that its work is counted where it was asked for.

    Args:
        network: The network, whose device is waited for.
    """

    def __init__(self, network: nn.Module) -> None:
        parameter = next(network.parameters(), None)
        self._waits = parameter is not None and parameter.device.type == "cuda"
        self._seconds = dict.fromkeys(_PARTS, 0.0)
        self._within = ["other"]
        self._batches = 0
        self._since = self._now()

    def attached_to(self, engine: Engine) -> Engine:
        """Return an engine of the same parts, each of which is measured."""
        hooks, fire = engine.hooks, engine.hooks.fire
        setattr(hooks, "fire", self._firing(fire))  # noqa: B010  # of this run's list alone
        shard = engine.strategy.shard
        return replace(
            engine,
            forward=self._timed("forward", engine.forward),
            objective=self._wrapped(engine.objective, forward=("prediction", "align", "loss")),
            metrics=self._wrapped(engine.metrics, metrics=("update", "compute")),
            router=self._wrapped(engine.router, data=("route", "prepare")),
            strategy=_Wrapped(engine.strategy, {"shard": lambda feed: _Read(self, shard(feed))}),
            update=self._wrapped(
                engine.update, backward=("backward",), optimizer=("apply", "clear")
            ),
        )

    def result(self) -> Profile:
        """Return what was measured until now."""
        self._switch()
        return Profile(dict(self._seconds), self._batches)

    def reading(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """Yield what an iterator yields; the time that this takes is that of the data."""
        while True:
            with self._part("data"):
                try:
                    raw = next(iterator)
                except StopIteration:
                    return
            self._batches += "validation" not in self._within
            yield raw

    def _wrapped(self, whole: Any, **methods: tuple[str, ...]) -> Any:
        timed = {
            name: self._timed(part, getattr(whole, name))
            for part, names in methods.items()
            for name in names
        }
        return _Wrapped(whole, timed)

    def _timed(self, part: str, func: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._part(part):
                return func(*args, **kwargs)

        return timed

    def _firing(self, fire: Callable[..., None]) -> Callable[..., None]:
        timed = self._timed("hooks", fire)

        def firing(hook: str, *args: Any) -> None:
            if hook == "on_valid_begin":
                self._enter("validation")
            timed(hook, *args)
            if hook == "on_valid_end":
                self._leave()

        return firing

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, name: str) -> None:
        self._switch()
        self._within.append("validation" if self._within[-1] == "validation" else name)

    def _leave(self) -> None:
        self._switch()
        self._within.pop()

    def _switch(self) -> None:
        now = self._now()
        self._seconds[self._within[-1]] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return perf_counter()


class _Read:
    """A feed that is measured each time it is read."""

    def __init__(self, profiler: Profiler, feed: Feed) -> None:
        self._profiler = profiler
        self._feed = feed

    def take(self, *args: Any) -> Iterator[Any]:
        return self._profiler.reading(self._feed.take(*args))


class _Wrapped:
    """An object with some of its methods replaced."""

    def __init__(self, whole: Any, methods: dict[str, Callable[..., Any]]) -> None:
        self.__dict__.update(methods)
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)
