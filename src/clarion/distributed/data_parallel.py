"""One process that splits each batch over several devices."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import data_parallel

from clarion.distributed.single import Single

__all__ = ["DataParallel"]


class DataParallel(Single):
    """Copies the network to several devices for each batch, as ``device=[...]`` asks.

    Args:
        devices: The devices; the network lives on the first, outputs are gathered there.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = list(devices)

    def wrap(self, network: nn.Module) -> Callable[..., Any]:
        """Return a function that runs the network on all devices."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return data_parallel(network, args, self.devices, self.devices[0], 0, kwargs)

        return forward
