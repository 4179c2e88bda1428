"""The outputs of a pass, collected batch by batch."""

from typing import Any

import torch

from clarion.data.batch import Batch
from clarion.data.nested import concatenate, torch_apply, torch_to_numpy
from clarion.distributed.strategy import Strategy
from clarion.engine.step import Output

__all__ = ["Collector"]


class Collector:
    """Keeps predictions and targets of a pass as asked for.

    Args:
        predictions: Whether predictions are kept.
        targets: Whether targets are kept.
        to_numpy: Whether they become ndarrays; otherwise tensors stay on their device.
        joined: Whether the batches are joined in the end.
        strategy: How ranks share the work; each gets what all of them collected.
    """

    def __init__(
        self,
        *,
        predictions: bool,
        targets: bool,
        to_numpy: bool,
        joined: bool,
        strategy: Strategy,
    ) -> None:
        self._strategy = strategy
        self._to_numpy = to_numpy
        self._joined = joined
        self._predictions: list[Any] | None = [] if predictions else None
        self._targets: list[Any] | None = [] if targets else None

    def keep(self, batch: Batch, output: Output) -> None:
        """Take what is wanted of a batch."""
        if self._predictions is not None:
            self._predictions.append(self._converted(batch, output.prediction))
        if self._targets is not None:
            self._targets.append(self._converted(batch, batch.target))

    def results(self) -> list[Any]:
        """Return the predictions, then the targets, as far as they are kept."""
        kept = [part for part in (self._predictions, self._targets) if part is not None]
        if self._strategy.world_size > 1:
            kept = [self._of_all_ranks(part) for part in kept]
        return [concatenate(part) if self._joined else part for part in kept]

    def _of_all_ranks(self, own: list[Any]) -> list[Any]:
        """Return one entry per batch: the rows of all ranks, in order."""
        ranks = self._strategy.gather(own)
        batches = [
            [part for part in parts if part is not None] for parts in zip(*ranks, strict=True)
        ]
        joined = [concatenate(parts) for parts in batches]
        device = next((d for d in map(_device_of, own) if d is not None), None)
        return torch_apply(joined, lambda tensor: tensor.to(device))  # type: ignore[no-any-return]

    def _converted(self, batch: Batch, value: Any) -> Any:
        if batch.is_filler:
            return None
        if self._to_numpy:
            return torch_to_numpy(value)
        return torch_apply(value, lambda tensor: tensor.detach())


def _device_of(structure: Any) -> torch.device | None:
    """Return the device of the first tensor."""
    found: list[torch.device] = []
    torch_apply(structure, lambda tensor: found.append(tensor.device))
    return found[0] if found else None
