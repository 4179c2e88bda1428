"""Several losses as one: their weighted sum, each averaged by what its own mean runs over."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clarion.metrics.base import Metric
from clarion.metrics.decomposable import DecomposableMetric

__all__ = ["SumOfLosses"]


class SumOfLosses(Metric):
    """The weighted sum of several losses over a pass, and each of them.

    It only keeps account: the losses themselves are updated by whoever routes the outputs.

    Args:
        parts: The losses by name.
        weights: Their factors in the sum, by the same names.

    Attributes:
        names: ``loss``, then the name of each part with ``_loss`` after it.
    """

    def __init__(
        self, parts: Mapping[str, DecomposableMetric], weights: Mapping[str, float]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts.values())
        self.weights = [float(weights[name]) for name in parts]
        self.names = ["loss", *(f"{name}_loss" for name in parts)]
        self.latest: Sequence[Tensor] = ()

    def combine(self, values: Sequence[Tensor]) -> Tensor:
        """Return the terms of the sum for one batch, with their gradients, shape (parts,)."""
        self.latest = [value.detach() for value in values]
        weighted = [w * value for w, value in zip(self.weights, values, strict=True)]
        return torch.stack([term.reshape(()) for term in weighted])

    def measured(self) -> list[tuple[tuple[str], tuple[str], Tensor]]:
        """Return each loss of the last batch, with its name."""
        names = self.names[1:]
        return [((n,), (n,), value) for n, value in zip(names, self.latest, strict=False)]

    def compute(self) -> NDArray[np.float64]:
        """Return the sum, then each loss, over everything since the last reset."""
        return self.compute_tensor().cpu().double().numpy()

    def compute_tensor(self) -> Tensor:
        """Return the same as `compute` on the device; a loss of weight 0 stays out of the sum."""
        means = torch.cat([part.compute_tensor() for part in self._parts()])
        factors = torch.tensor(self.weights, dtype=means.dtype).to(means.device)
        return torch.cat([torch.where(factors != 0, means * factors, 0.0).sum()[None], means])

    def reset(self) -> None:
        """Forget all batches."""
        for part in self._parts():
            part.reset()

    @property
    def sums(self) -> Tensor | None:
        """The sums of all parts, one after the other; None before the first batch."""
        sums = [part.sums for part in self._parts()]
        return None if any(one is None for one in sums) else torch.cat(sums)

    @sums.setter
    def sums(self, sums: Tensor | None) -> None:
        chunks = [None] * len(self.parts) if sums is None else sums.split(2)
        for part, chunk in zip(self._parts(), chunks, strict=True):
            part.sums = chunk

    def pass_state(self) -> dict[str, Any]:
        """Return what each loss has gathered since the last reset."""
        return {"parts": [part.pass_state() for part in self._parts()]}

    def load_pass_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `pass_state` returned."""
        for part, one in zip(self._parts(), state["parts"], strict=True):
            part.load_pass_state(one)

    def _parts(self) -> list[Any]:
        return list(self.parts)
