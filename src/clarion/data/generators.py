"""The generators that a loader draws its order from."""

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["generators_of"]


def generators_of(source: Any) -> Iterator[torch.Generator]:
    """Yield the generators of a loader's own, and of its samplers.

    Args:
        source: A loader, or anything that is iterated over.
    """
    for part in (source, getattr(source, "sampler", None), getattr(source, "batch_sampler", None)):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator
