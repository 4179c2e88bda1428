"""What torch is told to do everywhere, which a step by kernels alone would not notice."""

from typing import Any

import torch

__all__ = ["surroundings"]


def _unknown(*_: Any) -> None:
    """Stand for what this version of torch does not tell."""


# Modes around torch's functions and operations, and hooks on what autograd saves (torch 2.13).
_functions = getattr(torch._C, "_len_torch_function_stack", _unknown)
_operations = getattr(torch._C, "_len_torch_dispatch_stack", _unknown)
_saving = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", _unknown)


def surroundings() -> tuple[Any, ...]:
    """Return gradients, autocast, anomaly detection, and modes and hooks that are active.

    The first three are whether they are on; to be compared with what it was before.
    """
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_anomaly_enabled(),
        _functions(),
        _operations(),
        _saving(True),
    )
