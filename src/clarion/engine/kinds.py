"""Which batches are alike, so that what was learnt of one holds for the others."""

from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["MOST_KINDS", "Kind", "kind_of"]

Kind: TypeAlias = tuple[Any, ...]

MOST_KINDS = 64
"""How many kinds are remembered in a pass."""


def kind_of(value: Any, target: Any) -> Kind | None:
    """Return what batches have in common that are treated alike; None if nothing is known of that.

    So it is for what is no tensor, and for sparse and nested ones, which are not laid out alike.

    Args:
        value: What the network is called with, or what it returned.
        target: The target; None to leave it out of account.
    """
    if type(value) is not Tensor or value.layout is not torch.strided or value.is_nested:
        return None
    if target is None:
        return value.shape, value.dtype
    if type(target) is not Tensor or target.layout is not torch.strided or target.is_nested:
        return None
    return value.shape, value.dtype, target.shape, target.dtype
