"""Who holds the memory of a tensor, and whether somebody has written into it."""

from collections.abc import Callable
from sys import getrefcount
from typing import Any

import torch
from torch import Tensor

__all__ = ["UNSHARED", "holders_of", "version_of"]

# How many hold a tensor and a storage, modules in C++ among them; torch (2.13) asks that itself.
_uses: Callable[[Tensor], int] | None = getattr(Tensor, "_use_count", None)
_storage_uses: Callable[[Any], int] | None = getattr(torch._C, "_storage_Use_Count", None)

_Holders = tuple[int, int, int, bool]


def holders_of(value: Tensor) -> _Holders | None:
    """Return who holds a tensor of the caller's, `UNSHARED` if it is one variable of the caller's.

    Nobody else can then write into its memory. The answer takes a quarter of the time of a copy.

    Returns:
        The references to the object, to what it stands for in C++ and to its memory, and whether
        the memory is torch's own and not that of an ndarray; None if that cannot be told.
    """
    if _uses is None or _storage_uses is None or value.layout is not torch.strided:
        return None
    storage = value.untyped_storage()
    return getrefcount(value), _uses(value), _storage_uses(storage._cdata), storage.resizable()


def version_of(value: Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for one of ``torch.inference_mode``."""
    return 0 if value.is_inference() else value._version


def _unshared() -> _Holders:
    value = torch.empty(1)
    return holders_of(value) or (0, 0, 0, False)


UNSHARED = _unshared()
"""What `holders_of` returns for a tensor that only one variable of the caller's holds."""
