"""Who holds the memory of a tensor, and whether somebody has written into it."""

from collections.abc import Callable
from sys import getrefcount
from typing import Any

import torch
from torch import Tensor

__all__ = ["ONE_HOLDER", "may_be_shared", "version_of"]

# How many hold a tensor and a storage, modules in C++ among them; torch (2.13) asks that itself.
_uses: Callable[[Tensor], int] | None = getattr(Tensor, "_use_count", None)
_storage_uses: Callable[[Any], int] | None = getattr(torch._C, "_storage_Use_Count", None)


def may_be_shared(references: int, value: Tensor) -> bool:
    """Tell whether somebody beside one variable of the caller's may hold the memory of a tensor.

    If not, nobody else can write into it. The answer takes less time than a copy.

    Args:
        references: What `sys.getrefcount` returns for the variable. The caller asks, since a call
            in Python holds an argument once or twice, as torch.compile has left the interpreter;
            and asks first, since an argument that waits for the next one is held as well.
        value: The tensor.
    """
    return references != ONE_HOLDER or _holders_of(value) != _UNSHARED


def version_of(value: Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for one of ``torch.inference_mode``."""
    return 0 if value.is_inference() else value._version


def _holders_of(value: Tensor) -> tuple[int, int, int, bool] | None:
    """Return how many hold a tensor and its memory, and whether that is torch's alone; or None.

    It is not if an ndarray has it, or had it once.
    """
    if _uses is None or _storage_uses is None or value.layout is not torch.strided:
        return None
    storage = value.untyped_storage()
    uses = _uses(value), _storage_uses(storage._cdata)
    return *uses, getrefcount(storage), storage.resizable()


def _references() -> int:
    value = object()
    return getrefcount(value)


ONE_HOLDER = _references()
"""What `sys.getrefcount` returns for an object that only one variable of the caller's holds."""

_UNSHARED = _holders_of(torch.empty(1, device="cpu")) or (0, 0, 0, False)
