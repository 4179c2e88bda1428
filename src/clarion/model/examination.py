"""A look at data and network before a long training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from clarion.arguments import check_whole_number, checked_arguments
from clarion.checkpoints.random import preserved_random_state
from clarion.data.batch import Batch
from clarion.data.nested import concatenate, torch_apply
from clarion.engine.stage import TRAIN
from clarion.engine.step import score_step
from clarion.errors import DataError
from clarion.layers.modes import mode
from clarion.model.data_checks import check_data
from clarion.model.findings import DoctorReport
from clarion.model.fitting import loader_of
from clarion.model.network_checks import Observer
from clarion.model.prediction import Prediction

__all__ = ["Examination"]

_RUN_BATCHES = 16


class Examination(Prediction):
    """Finding out why a network may not learn."""

    @checked_arguments
    def doctor(
        self, x: Any, y: Any = None, *, batch_size: int = 32, batches: int = 1000
    ) -> DoctorReport:
        """Look for what commonly keeps a network from learning, and return what was found.

        In the data: values that are not finite or far from the scale of weights, constant columns
        and targets, rare classes, and examples that occur twice. In the network, which up to 16
        batches run through in train mode: units that are always 0, activations at their limits,
        parameters without a part in the loss or unknown to the optimizer, gradients that vanish or
        explode. Weights, gradients, metrics and random states stay as they were.

        Args:
            x: The inputs, as for `fit`; without ``y`` also a dataset, a loader or any iterable.
            y: The targets, likewise.
            batch_size: Examples in a batch.
            batches: How many batches of the data to look at, at most.

        Raises:
            DataError: If there is no batch.

        Example:
            >>> import torch
            >>> from clarion import Model
            >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
            >>> model = Model(torch.nn.Linear(2, 2), "sgd", "cross_entropy")
            >>> for finding in model.doctor(x, torch.zeros(64, dtype=torch.long)):
            ...     print(finding.kind, "-", finding.what)
            constant targets - all 64 targets are 0, so there is nothing to tell apart.
        """
        check_whole_number("batches", batches, 1)
        loader = loader_of((x, y), ("x", "y"), {"batch_size": batch_size})
        observer = Observer(self.network)
        kept: list[Batch] = []
        with preserved_random_state(), self._unchanged():
            engine = self._engine()
            for number, raw in enumerate(islice(loader, batches), start=1):
                batch = self._router.route(raw, where=f"Batch {number}")
                batch = self._router.prepare(batch, self._device)
                kept.append(batch)
                if number > _RUN_BATCHES:
                    continue
                self.network.zero_grad()
                with observer.watching():
                    output = score_step(engine, batch, TRAIN, number)
                if isinstance(output.loss, Tensor) and output.loss.requires_grad:
                    output.loss.backward()
            if not kept:
                raise DataError("x gave no batch; check that the data is not empty.")
            found = observer.findings(self.optimizer)
        data = check_data(_joined(b.inputs for b in kept), _joined(b.target for b in kept))
        examples = sum(batch.size or 0 for batch in kept)
        return DoctorReport((*data, *found), examples, observer.layers)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Put buffers, gradients and the metrics' sums back after batches have run inside."""
        network = self.network
        gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
        buffers = [(b, b.clone()) for b in network.buffers() if not is_lazy(b)]
        for parameter, _ in gradients:
            parameter.grad = None
        try:
            with self._metrics.aside(), mode(network, training=True), torch.enable_grad():
                yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


def _joined(parts: Any) -> Any:
    """Return the parts of all batches as one, on the CPU; None if they differ in shape."""
    parts = [torch_apply(part, lambda tensor: tensor.detach().cpu()) for part in parts]
    whole = concatenate(parts)
    return whole if _is_alike(parts[0], whole) else None


def _is_alike(part: Any, whole: Any) -> bool:
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(_is_alike(part[k], whole[k]) for k in part)
    if isinstance(part, list | tuple):
        several = isinstance(whole, list | tuple) and len(whole) == len(part)
        return several and all(map(_is_alike, part, whole))
    return isinstance(part, Tensor) and isinstance(whole, Tensor)
