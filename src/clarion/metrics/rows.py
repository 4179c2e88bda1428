"""Rows of all batches, kept compactly until a metric needs them together."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarion.errors import DataError
from clarion.metrics.base import Metric

__all__ = ["ArrayRows", "RowMetric", "TensorRows"]

_GROWTH = 1.25


class RowMetric(Metric):
    """A metric that needs all rows at once, for example because it ranks them.

    Subclasses implement ``select`` (what is kept of a batch) and ``conclude`` (the value of what
    was kept). The rows stay on the device until the next reset, in the dtype they have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    @abstractmethod
    def select(self, y_pred: Any, y_true: Any) -> tuple[Tensor, ...]:
        """Return what to keep of a batch: tensors with one row per example, as many each time."""

    @abstractmethod
    def conclude(self, *rows: Tensor) -> Tensor:
        """Return the value of these rows, the tensors of all batches put together."""

    def forward(self, y_pred: Any, y_true: Any) -> Tensor:
        """Keep the rows of a batch and return its own value, as a tensor on the device."""
        rows = self.select(y_pred, y_true)
        self._keep(rows)
        return self.conclude(*rows)

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Keep the rows of a batch."""
        self._keep(self.select(y_pred, y_true))

    def compute(self) -> Tensor:
        """Return the value since the last reset; nan before the first batch."""
        rows = self.rows
        return self.conclude(*rows) if rows else torch.tensor(torch.nan)

    def reset(self) -> None:
        """Forget all rows."""
        self._kept: list[TensorRows] = []

    @property
    def rows(self) -> list[Tensor]:
        """All that was kept, in order; an empty list before the first batch.

        Rows of several ranks are put together one after the other, and may be put back.
        """
        return [kept.all() for kept in self._kept]

    @rows.setter
    def rows(self, rows: Sequence[Tensor]) -> None:
        self.reset()
        if rows:
            self._keep(rows)

    def pass_state(self) -> dict[str, Any]:
        """Return what has been gathered since the last reset."""
        return {"rows": self.rows}

    def load_pass_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `pass_state` returned."""
        self.rows = state["rows"]

    def _keep(self, rows: Sequence[Tensor]) -> None:
        if not self._kept:
            self._kept = [TensorRows() for _ in rows]
        for kept, more in zip(self._kept, rows, strict=True):
            kept.append(more)


class ArrayRows:
    """Rows on the host in one array that grows in place, so that nothing is ever held twice."""

    def __init__(self) -> None:
        self._held: NDArray[Any] | None = None
        self._size = 0
        self._lent = False

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows, an array of at least one dimension."""
        if self._held is None:
            self._held = rows.copy()
            self._size = len(rows)
            return
        if rows.shape[1:] != self._held.shape[1:]:
            raise DataError(
                f"The rows of a batch have shape {rows.shape[1:]}, those of the batches before it "
                f"{self._held.shape[1:]}: a metric over all rows cannot put them together."
            )
        end = self._size + len(rows)
        self._make_room(end, np.result_type(self._held, rows))
        self._held[self._size : end] = rows
        self._size = end

    def all(self) -> NDArray[Any]:
        """Return all rows, in order."""
        if self._held is None:
            return np.zeros(0)
        self._lent = True
        return self._held[: self._size]

    def __len__(self) -> int:
        return self._size

    def _make_room(self, size: int, dtype: np.dtype[Any]) -> None:
        assert self._held is not None
        room = len(self._held) if size <= len(self._held) else int(size * _GROWTH)
        shape = (room, *self._held.shape[1:])
        if dtype != self._held.dtype or (self._lent and room != len(self._held)):
            # Somebody may look at the old array: it must not be moved under their eyes.
            grown = np.empty(shape, dtype)
            grown[: self._size] = self._held[: self._size]
            self._held, self._lent = grown, False
        elif room != len(self._held):
            self._held.resize(shape, refcheck=False)


class TensorRows:
    """Rows on the device, in few pieces however many batches there were.

    Pieces are joined when the newer one is as long as the older one: as in a binary counter there
    are never more than some log2(rows) of them, and a row is copied as often.
    """

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []

    def append(self, rows: Tensor) -> None:
        """Add rows, a tensor of at least one dimension."""
        pieces = self._pieces
        if pieces and pieces[0].shape[1:] != rows.shape[1:]:
            raise DataError(
                f"The rows of a batch have shape {tuple(rows.shape[1:])}, those of the batches "
                f"before it {tuple(pieces[0].shape[1:])}: they cannot be put together."
            )
        pieces.append(rows.detach().clone())
        while len(pieces) > 1 and len(pieces[-1]) >= len(pieces[-2]):
            newer = pieces.pop()
            pieces[-1] = torch.cat([pieces[-1], newer])

    def all(self) -> Tensor:
        """Return all rows, in order; an empty tensor if there are none."""
        if len(self._pieces) > 1:
            self._pieces = [torch.cat(self._pieces)]
        return self._pieces[0] if self._pieces else torch.zeros(0)

    def __len__(self) -> int:
        return sum(len(piece) for piece in self._pieces)
