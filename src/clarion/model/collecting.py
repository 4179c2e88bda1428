"""The outputs of a pass, collected batch by batch."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clarion.data.batch import Batch
from clarion.data.joining import Joiner, Store
from clarion.data.nested import concatenate, detached, torch_apply
from clarion.data.size import get_batch_size
from clarion.distributed.strategy import Strategy
from clarion.engine.step import Output
from clarion.errors import DataError, InvalidArgumentError

__all__ = ["Collector", "Returns"]


@dataclass(frozen=True, slots=True)
class Returns:
    """What an evaluation or a prediction is to return, and in which form.

    Attributes:
        predictions: Whether predictions are returned.
        targets: Whether targets are returned.
        joined: Whether the batches are joined in the end.
        to_numpy: Whether they become ndarrays; otherwise tensors stay on their device.
        as_dict: Whether loss and metrics come as a dict.
        stream: Whether the batches come one by one.
        out: The file that predictions are written to; None keeps them in memory.
        reordered: Whether examples are read in another order than the dataset's, in which they are
            returned.

    Raises:
        InvalidArgumentError: If two of these contradict each other.
    """

    predictions: bool = True
    targets: bool = False
    joined: bool = True
    to_numpy: bool = True
    as_dict: bool = False
    stream: bool = False
    out: str | os.PathLike[str] | None = None
    reordered: bool = False

    def __post_init__(self) -> None:
        separate = "stream=True" if self.stream else "concatenate_returns=False"
        if self.reordered and (self.stream or not self.joined):
            raise InvalidArgumentError(
                "bucket_by reads the examples sorted by their lengths, so they can only be put "
                f"back in order when all are there; {separate} asks for them before. Leave one out."
            )
        if self.out is None:
            return
        for name, wrong in (
            ("stream=True", self.stream),
            ("concatenate_returns=False", not self.joined),
            ("convert_to_numpy=False", not self.to_numpy),
        ):
            if wrong:
                raise InvalidArgumentError(
                    f"out={str(self.out)!r} writes all predictions as one ndarray into a file, "
                    f"which {name} contradicts. Leave one of the two out."
                )

    def check_ranks(self, world_size: int) -> None:
        """Raise `InvalidArgumentError` if several ranks cannot return what is wanted."""
        for name, wanted in (("stream=True", self.stream), ("out", self.out is not None)):
            if wanted and world_size > 1:
                raise InvalidArgumentError(
                    f"{name} works in one process, and {world_size} ranks share this prediction. "
                    "Leave it out: every rank then gets all predictions as an array."
                )

    def of(self, batch: Batch, output: Output) -> Any:
        """Return what is wanted of a single batch: predictions, or a pair with the targets."""
        prediction = self.converted(output.prediction, lasts=batch.ran_ahead)
        if not self.targets:
            return prediction
        return prediction, self.converted(batch.target, lasts=batch.lasts)

    def converted(self, value: Any, *, lasts: bool = False) -> Any:
        """Return a value as ndarrays, or as tensors without a gradient.

        Args:
            value: Tensors, nested or not.
            lasts: Whether nobody will write into their memory again; they are copied otherwise.
        """
        return detached(value, to_numpy=self.to_numpy, lasts=lasts)


class Collector:
    """Keeps predictions and targets of a pass as asked for.

    Args:
        returns: What is wanted.
        strategy: How ranks share the work; each gets what all of them collected.
        num_rows: How many examples will come, if that is known.
        num_batches: How many batches will come, if that is known.
        order: The index of each example in the result, in the order in which they come; None if
            they come in order.
        store: Where predictions are kept; memory if None.
    """

    def __init__(
        self,
        returns: Returns,
        strategy: Strategy,
        *,
        num_rows: int | None = None,
        num_batches: int | None = None,
        order: Tensor | None = None,
        store: Store | None = None,
    ) -> None:
        self._returns = returns
        self._strategy = strategy
        self._in_file = store is not None
        self._predictions: Any = None
        self._targets: Any = None
        if returns.predictions:
            self._predictions = self._place(num_rows, num_batches, order, store)
        if returns.targets:
            self._targets = self._place(num_rows, num_batches, order, None)

    def keep(self, batch: Batch, output: Output) -> None:
        """Take what is wanted of a batch."""
        if self._predictions is not None:
            prediction = None if batch.is_filler else output.prediction
            self._predictions.append(prediction, batch.size, lasts=batch.ran_ahead)
            if self._in_file and not self._predictions.joined:
                raise DataError(
                    f"out={str(self._returns.out)!r} holds one array, and the outputs of the "
                    "network do not make one: they are several, or differ in shape from batch to "
                    "batch. Choose one with prediction_key, or pass stream=True and write them."
                )
        if self._targets is not None:
            target = None if batch.is_filler else batch.target
            self._targets.append(target, batch.size, lasts=batch.lasts)

    def results(self) -> list[Any]:
        """Return the predictions, then the targets, as far as they are kept."""
        return [kept.result() for kept in (self._predictions, self._targets) if kept is not None]

    def _place(
        self,
        num_rows: int | None,
        num_batches: int | None,
        order: Tensor | None,
        store: Store | None,
    ) -> Any:
        returns = self._returns
        place: Any = _Separate(returns)
        if returns.joined:
            place = Joiner(
                to_numpy=returns.to_numpy,
                num_rows=num_rows,
                num_batches=num_batches,
                order=order,
                store=store,
            )
        if self._strategy.world_size == 1:
            return place
        return _Ranks(place, self._strategy, "cpu" if returns.to_numpy else None)


class _Separate:
    """A list with one entry per batch."""

    def __init__(self, returns: Returns) -> None:
        self._returns = returns
        self._batches: list[Any] = []

    def append(self, value: Any, size: int | None, *, lasts: bool = False) -> None:
        self._batches.append(self._returns.converted(value, lasts=lasts))

    def result(self) -> list[Any]:
        return self._batches


class _Ranks:
    """What each rank collects of its part of each batch, put together in the end."""

    def __init__(self, place: Any, strategy: Strategy, device: str | None) -> None:
        self._place = place
        self._device = device
        self._strategy = strategy
        self._own: list[Any] = []

    def append(self, value: Any, size: int | None, *, lasts: bool = False) -> None:
        """Take a batch; None for one of which this rank has no row."""
        kept = torch_apply(value, lambda t: t.detach().to(self._device or t.device, copy=True))
        self._own.append(kept)

    def result(self) -> Any:
        device = next((d for d in map(_device_of, self._own) if d is not None), None)
        for parts in zip(*self._strategy.gather(self._own), strict=True):
            whole = concatenate([part for part in parts if part is not None])
            whole = torch_apply(whole, lambda tensor: tensor.to(device))
            self._place.append(whole, get_batch_size(whole))
        return self._place.result()


def _device_of(structure: Any) -> torch.device | None:
    """Return the device of the first tensor."""
    found: list[torch.device] = []
    torch_apply(structure, lambda tensor: found.append(tensor.device))
    return found[0] if found else None
