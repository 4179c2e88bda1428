"""Batches grouped into optimizer steps."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from clarion.data.batch import Batch
from clarion.distributed.single import Single
from clarion.distributed.strategy import Strategy
from clarion.metrics.base import accumulation_dtype

__all__ = ["group_by_step"]


def group_by_step(
    batches: Iterable[Batch],
    batches_per_step: int,
    weigh: Callable[[Batch], float | Tensor],
    strategy: Strategy | None = None,
) -> Iterator[Batch]:
    """Return the batches, each with its share of the optimizer step that it belongs to.

    The shares of a step sum to 1, in proportion to what the mean loss of each batch runs over, so
    the summed gradients are those of one big batch, whatever the sizes. The last step may have
    fewer batches. A step's batches are read before its first one is yielded.

    Args:
        batches: The batches.
        batches_per_step: How many batches make a step; with 1, on one process, each share is 1.
        weigh: What the mean loss of a batch runs over: a number, or a tensor on a device.
        strategy: How ranks share the work; they take part in each step with their own batches, and
            the shares of all of them sum to their number, since the mean of their gradients counts.
    """
    strategy = strategy or Single()
    if batches_per_step == 1 and strategy.world_size == 1:
        return iter(batches)
    return _grouped(batches, batches_per_step, weigh, strategy)


def _grouped(
    batches: Iterable[Batch],
    batches_per_step: int,
    weigh: Callable[[Batch], float | Tensor],
    strategy: Strategy,
) -> Iterator[Batch]:
    window: list[Batch] = []
    for batch in batches:
        window.append(batch)
        if len(window) == batches_per_step:
            yield from _shared(window, weigh, strategy)
            window = []
    yield from _shared(window, weigh, strategy)


def _shared(
    window: list[Batch],
    weigh: Callable[[Batch], float | Tensor],
    strategy: Strategy,
) -> Iterator[Batch]:
    if not window:
        return
    weights = [weigh(batch) for batch in window]
    whole = strategy.total(sum(weights))
    ranks = strategy.world_size
    for position, (batch, weight) in enumerate(zip(window, weights, strict=True)):
        if isinstance(weight, Tensor) or isinstance(whole, Tensor):
            part, all_parts = torch.as_tensor(weight), torch.as_tensor(whole)
            exact = part.to(accumulation_dtype(all_parts.device)) * ranks
            batch.share = torch.where(all_parts > 0, exact / all_parts, 0.0)
        else:
            batch.share = weight * ranks / whole if whole else 0.0
        batch.opens_step = position == 0
        batch.closes_step = position == len(window) - 1
        yield batch
