"""Whether somebody has written into the memory of a tensor."""

from torch import Tensor

__all__ = ["version_of"]


def version_of(value: Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for one of ``torch.inference_mode``."""
    return 0 if value.is_inference() else value._version
