"""From the raw batches of a source to batches that are ready for the network."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from clarion.data.arrays import ArrayBatches
from clarion.data.batch import Batch
from clarion.data.feed import Feed
from clarion.engine.engine import Engine

__all__ = ["Source", "may_be_read_ahead", "read", "read_ahead"]

_MOST_AHEAD = 16  # batches


@dataclass(frozen=True, slots=True)
class Source:
    """Where the batches of a pass come from.

    Attributes:
        feed: What gives the raw batches, pass after pass.
        steps: How many batches make a pass; None for as many as there are.
        supervised: Whether raw batches carry a target.
        name: What tells several validation sets apart; empty if there is one.
    """

    feed: Feed
    steps: int | None = None
    supervised: bool = True
    name: str = ""


def read(
    engine: Engine, source: Source, where: str, epoch: int = 0, done: int = 0
) -> Generator[Batch, None, None]:
    """Yield the batches of a pass, ready for the network.

    Args:
        engine: What a step works with.
        source: Where they come from.
        where: What an error calls it.
        epoch: The number of the pass.
        done: How many batches of the pass were done before.
    """
    router, device, supervised = engine.router, engine.device, source.supervised
    feed = engine.strategy.shard(source.feed)
    lasts = _lasts(engine, source)
    whole = engine.strategy.world_size == 1
    for number, raw in enumerate(feed.take(source.steps, where, epoch), start=done + 1):
        batch = router.at_once(raw, device, supervised=supervised) if whole else None
        if batch is None:
            batch = _prepared(engine, source, raw, number, where)
        batch.lasts = lasts
        yield batch


def may_be_read_ahead(engine: Engine, source: Source) -> bool:
    """Tell whether batches can be asked for before those before them have been used.

    Not if the loader begins anew inside the pass: it draws random numbers then, after those that
    the network has drawn for the batches so far.
    """
    if not (_lasts(engine, source) and engine.strategy.world_size == 1):
        return False
    loader: Any = source.feed.loader
    return source.steps is None or source.steps <= len(loader)


def read_ahead(engine: Engine, source: Source, where: str) -> Iterator[list[Batch]]:
    """Yield the same batches some at a time: what there is to do for each takes less time then.

    Args: see `read`; `may_be_read_ahead` holds.
    """
    router, device, supervised = engine.router, engine.device, source.supervised
    raws = source.feed.take(source.steps, where)
    done = 0
    while some := list(islice(raws, _MOST_AHEAD if done else 1)):
        batches = router.all_at_once(some, device, supervised=supervised)
        if batches is None:
            batches = [
                _prepared(engine, source, raw, number, where)
                for number, raw in enumerate(some, start=done + 1)
            ]
        for batch in batches:
            batch.lasts = True
        done += len(batches)
        yield batches


def _prepared(engine: Engine, source: Source, raw: Any, number: int, where: str) -> Batch:
    """Return what a raw batch becomes, and learn if others like it need no preparation."""
    router, strategy, supervised = engine.router, engine.strategy, source.supervised
    this = f"Batch {number} of {where}"
    batch = router.route(raw, supervised=supervised, where=this)
    batch = router.prepare(strategy.part(batch, number, this), engine.device)
    if strategy.world_size == 1:
        router.learn(raw, batch, engine.device, supervised=supervised)
    return batch


def _lasts(engine: Engine, source: Source) -> bool:
    return isinstance(source.feed.loader, ArrayBatches) and engine.router.hands_on
