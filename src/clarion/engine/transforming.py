"""Train batches as the user's batch transform changes them."""

from collections.abc import Iterator

from clarion.data.batch import Batch
from clarion.data.mixing import transformed
from clarion.engine.engine import Engine

__all__ = ["transformed_batches"]


def transformed_batches(engine: Engine, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Return the batches after the engine's batch transform, if it has one.

    Each of several ranks draws random numbers of its own for it; a filler stays as it is.

    Args:
        engine: What a step works with.
        batches: Batches that are ready for the network.
    """
    transform, progress = engine.batch_transform, engine.progress
    if transform is None:
        return batches
    randomness = engine.strategy.own_randomness

    def change(batch: Batch) -> Batch:
        with randomness(progress.epoch, progress.step, progress.batch):
            if batch.is_filler:
                return batch
            changed = transformed(transform, batch)
        changed.lasts = False  # it may hand out the same memory each time
        return changed

    return map(change, batches)
