"""The generators that a loader draws its order from."""

from typing import Any

import torch

from clarion.data.order import LoaderState

__all__ = ["generators_of"]


def generators_of(source: Any) -> list[torch.Generator]:
    """Return the generators of a loader's own, and of its samplers.

    Args:
        source: A loader, or anything that is iterated over.
    """
    return LoaderState([source]).generators
