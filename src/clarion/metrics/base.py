"""What a metric is: a state that batches update and that a number is computed from."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Metric", "StreamingMetric", "accumulation_dtype"]


class Metric(ABC, nn.Module):
    """A state that each batch updates, and a value computed from it.

    Subclasses implement ``update``, ``compute`` and ``reset``. One that also implements
    ``forward`` decides itself what the value of a single batch is; otherwise ``forward``
    computes it from that batch alone by ``update``, ``compute`` and the state put aside.
    """

    def forward(self, y_pred: Any, y_true: Any) -> Any:
        """Update the state with one batch and return the value of that batch alone."""
        raise NotImplementedError

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Update the state with one batch."""
        raise NotImplementedError

    @abstractmethod
    def compute(self) -> Any:
        """Return the value over everything since the last reset; the state stays as it is."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""


class StreamingMetric(Metric):
    """A metric that is a function of sums over examples.

    Subclasses implement ``tally`` (what one batch adds to the sums) and ``conclude`` (the value
    that sums amount to). Nothing is read on the host, so nobody waits for the device; the value
    does not depend on how the examples were cut into batches; and sums of several ranks add up.
    """

    sums: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", None, persistent=False)

    @abstractmethod
    def tally(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return what a batch adds to the sums: same shape each time, ``accumulation_dtype``."""

    @abstractmethod
    def conclude(self, sums: Tensor) -> Tensor:
        """Return the value, 0-d or one entry per name, that these sums amount to."""

    def forward(self, y_pred: Any, y_true: Any) -> Tensor:
        """Add a batch to the sums and return its own value, as a tensor on the device."""
        tallied = self.tally(y_pred, y_true)
        self._add(tallied)
        return self.conclude(tallied)

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Add a batch to the sums."""
        self._add(self.tally(y_pred, y_true))

    def compute(self) -> Tensor:
        """Return the value since the last reset; nan before the first batch."""
        return torch.tensor(torch.nan) if self.sums is None else self.conclude(self.sums)

    def reset(self) -> None:
        """Forget all sums."""
        self.sums = None

    def _add(self, tallied: Tensor) -> None:
        self.sums = tallied if self.sums is None else self.sums + tallied


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices that have nothing wider (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64
