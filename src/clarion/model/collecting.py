"""The outputs of a pass, collected batch by batch."""

from typing import Any

from clarion.data.batch import Batch
from clarion.data.nested import concatenate, torch_apply, torch_to_numpy
from clarion.engine.step import Output

__all__ = ["Collector"]


class Collector:
    """Keeps predictions and targets of a pass as asked for.

    Args:
        predictions: Whether predictions are kept.
        targets: Whether targets are kept.
        to_numpy: Whether they become ndarrays; otherwise tensors stay on their device.
        joined: Whether the batches are joined in the end.
    """

    def __init__(self, *, predictions: bool, targets: bool, to_numpy: bool, joined: bool) -> None:
        self._to_numpy = to_numpy
        self._joined = joined
        self._predictions: list[Any] | None = [] if predictions else None
        self._targets: list[Any] | None = [] if targets else None

    def keep(self, batch: Batch, output: Output) -> None:
        """Take what is wanted of a batch."""
        if self._predictions is not None:
            self._predictions.append(self._converted(output.prediction))
        if self._targets is not None:
            self._targets.append(self._converted(batch.target))

    def results(self) -> list[Any]:
        """Return the predictions, then the targets, as far as they are kept."""
        kept = [part for part in (self._predictions, self._targets) if part is not None]
        return [concatenate(part) if self._joined else part for part in kept]

    def _converted(self, value: Any) -> Any:
        if self._to_numpy:
            return torch_to_numpy(value)
        return torch_apply(value, lambda tensor: tensor.detach())
