"""Batches grouped into optimizer steps."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from clarion.data.batch import Batch
from clarion.metrics.base import accumulation_dtype

__all__ = ["group_by_step"]


def group_by_step(
    batches: Iterable[Batch],
    batches_per_step: int,
    weigh: Callable[[Batch], float | Tensor],
    total: Callable[[float | Tensor], float | Tensor] = lambda weight: weight,
) -> Iterator[Batch]:
    """Yield the batches, each with its share of the optimizer step that it belongs to.

    The shares of a step sum to 1, in proportion to what the mean loss of each batch runs over, so
    the summed gradients are those of one big batch, whatever the sizes. The last step may have
    fewer batches. A step's batches are read before its first one is yielded.

    Args:
        batches: The batches.
        batches_per_step: How many batches make a step; with 1, each share is 1.
        weigh: What the mean loss of a batch runs over: a number, or a tensor on a device.
        total: What makes the sum over this process the sum over all of them.
    """
    if batches_per_step == 1:
        yield from batches
        return
    window: list[Batch] = []
    for batch in batches:
        window.append(batch)
        if len(window) == batches_per_step:
            yield from _shared(window, weigh, total)
            window = []
    yield from _shared(window, weigh, total)


def _shared(
    window: list[Batch],
    weigh: Callable[[Batch], float | Tensor],
    total: Callable[[float | Tensor], float | Tensor],
) -> Iterator[Batch]:
    if not window:
        return
    weights = [weigh(batch) for batch in window]
    whole = total(sum(weights))
    for position, (batch, weight) in enumerate(zip(window, weights, strict=True)):
        if isinstance(weight, Tensor) or isinstance(whole, Tensor):
            part, all_parts = torch.as_tensor(weight), torch.as_tensor(whole)
            exact = part.to(accumulation_dtype(all_parts.device))
            batch.share = torch.where(all_parts > 0, exact / all_parts, 0.0)
        else:
            batch.share = weight / whole if whole else 0.0
        batch.opens_step = position == 0
        batch.closes_step = position == len(window) - 1
        yield batch
