"""Images in memory with the channels of a pixel side by side."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["CHANNELS_LAST", "use_channels_last"]

CHANNELS_LAST: dict[int, torch.memory_format] = {
    4: torch.channels_last,
    5: torch.channels_last_3d,
}
"""The memory format of images, shape (N, C, H, W), and volumes, (N, C, D, H, W)."""


def use_channels_last(network: nn.Module) -> None:
    """Put parameters and buffers of 4 or 5 dimensions into the memory format of images.

    Names, shapes and values stay as they are, and so do the parameter objects, which an optimizer
    may hold. A layer that does not know its shape yet follows when it does. A warning tells of
    weights none of which is of images.

    Args:
        network: The network.
    """
    has_weights = has_images = False
    for module in network.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        has_weights = has_weights or bool(own)
        for tensor in own:
            if is_lazy(tensor):
                has_images = True  # or not: nobody knows yet
            elif tensor.ndim in CHANNELS_LAST:
                has_images = True
                _lay_out(tensor)
        if any(map(is_lazy, own)):
            module.register_forward_pre_hook(_Later())
    if has_weights and not has_images:
        warnings.warn(
            "channels_last=True does nothing for this network, which has no weights over images, "
            "as Conv2d and Conv3d have. Leave it out.",
            stacklevel=4,
        )


class _Later:
    """A hook that lays out a lazy layer at each call; torch has given it its shape by then."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            _lay_out(tensor)


def _lay_out(tensor: Tensor) -> None:
    wanted = CHANNELS_LAST.get(tensor.ndim)
    if wanted is not None and not tensor.is_contiguous(memory_format=wanted):
        tensor.data = tensor.data.contiguous(memory_format=wanted)
