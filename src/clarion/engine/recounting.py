"""Batch statistics counted anew for averaged weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from clarion.checkpoints.random import preserved_random_state
from clarion.data.batch import Batch
from clarion.data.feed import Feed
from clarion.data.order import LoaderState
from clarion.engine.averaging import WeightAverage
from clarion.engine.engine import Engine
from clarion.layers.modes import mode

__all__ = ["recount"]


def recount(
    engine: Engine,
    average: WeightAverage | None,
    loader: Any,
    read: Callable[[Feed], Iterable[Batch]],
) -> None:
    """Read the train data once more, if the average wants it; nothing that is learnt changes.

    Args:
        engine: What a step works with.
        average: The weight average, if there is one.
        loader: What gives the train batches.
        read: Returns the batches of a feed, ready for the network.
    """
    if average is None or not average.recounts:
        return
    network, order = engine.network, LoaderState([loader])
    drawn = order.state_dict()

    def call(batch: Batch | None) -> None:
        if batch is None:
            engine.strategy.settle(network, buffers_only=True)
        elif not batch.is_filler:
            with engine.precision.arithmetic():
                network(*batch.args, **batch.kwargs)

    try:
        with preserved_random_state(), torch.no_grad(), mode(network, training=True):
            average.recount(read(Feed(loader)), call)
    finally:
        order.load_state_dict(drawn)
