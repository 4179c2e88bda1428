"""Where a number first became nan or infinite: rows of a batch, module, or parameter."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clarion.checkpoints.random import preserved_random_state
from clarion.data.batch import Batch
from clarion.data.nested import map_structure
from clarion.engine.objective import Objective
from clarion.engine.precision import Precision
from clarion.engine.state import Progress

__all__ = ["Suspect", "Tracer"]

_MOST_ROWS = 8
_DATA = "Mend or leave out these rows"
_GRADIENT = "First bad: the gradient"
_NETWORK = "Lower the learning rate, clip the gradient, or look for a log, root or division of 0"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A batch whose step went wrong.

    Attributes:
        loss: The value of its loss; None if unknown, or if the loss was finite.
        batch: The batch; None if it was not kept.
        number: Its number in the epoch.
        step: The number of the optimizer step.
        is_gradient: Whether its loss was finite, and a gradient was not.
    """

    loss: float | None
    batch: Batch | None
    number: int
    step: int
    is_gradient: bool = False


@dataclass
class _Trace:
    """What a second run of a batch showed."""

    nan: str = ""
    infinite: str = ""
    rows: list[int] | None = None
    bad: bool = False


class Tracer:
    """Runs a batch again to find what first went bad.

    Args:
        network: The network, as the user wrote it.
        objective: How the loss comes about.
        precision: In which arithmetic the network runs.
        progress: Where the training is.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        precision: Precision,
        progress: Progress,
    ) -> None:
        self._network = network
        self._objective = objective
        self._precision = precision
        self._progress = progress

    def report(self, suspect: Suspect) -> str:
        """Return what an error says of a suspect, in at most six lines."""
        value = "is not finite" if suspect.loss is None else f"is {suspect.loss:g}"
        what = f"The loss {value}"
        batch = suspect.batch
        cause, remedy = "Its batch was not kept, so that rows and module are unknown.", _NETWORK
        if batch is not None:
            cause, remedy = self._cause(batch)
        if suspect.is_gradient or (suspect.loss is None and cause.startswith(_GRADIENT)):
            what = "A gradient is not finite"
        return (
            f"{what} at optimizer step {suspect.step} (epoch {self._progress.epoch + 1}, train "
            f"batch {suspect.number}). The step was not taken: the weights are those before it.\n"
            f"{cause}\n{remedy}; or leave such steps out with "
            'Model(..., on_nonfinite="skip").'
        )

    def is_bad(self, suspect: Suspect) -> bool:
        """Tell whether running a batch again gives a loss that is not finite."""
        return suspect.batch is not None and self._run(suspect.batch).bad

    def _cause(self, batch: Batch) -> tuple[str, str]:
        for name, value in _named(batch):
            rows = _bad_rows(value, batch.size, data=True)
            if rows is not None:
                return f"First bad: {name}{_listed(rows, batch.size)}.", _DATA
        weights = [n for n, p in self._network.named_parameters() if not _is_finite(p)]
        if weights:
            return f'First bad: the weights "{weights[0]}", before this step.', _NETWORK
        trace = self._run(batch)
        where = trace.nan or trace.infinite
        if where:
            return f"First bad: {where}{_listed(trace.rows or [], batch.size)}.", _NETWORK
        if trace.bad:
            rows = trace.rows or []
            return f"First bad: the loss function{_listed(rows, batch.size)}.", _NETWORK
        gradients = [
            name
            for name, p in self._network.named_parameters()
            if p.grad is not None and not _is_finite(p.grad)
        ]
        if gradients:
            more = f" and {len(gradients) - 1} others" if len(gradients) > 1 else ""
            return (
                f'{_GRADIENT} of "{gradients[0]}"{more}; every output is finite.',
                _NETWORK,
            )
        return "Running the batch again gave finite numbers.", _NETWORK

    def _run(self, batch: Batch) -> _Trace:
        """Run a batch forward as before; leave weights, statistics and random states alone."""
        trace = _Trace()
        buffers = [(buffer, buffer.clone()) for buffer in self._network.buffers()]
        try:
            with preserved_random_state(), torch.no_grad(), self._watched(trace):
                with self._precision.arithmetic():
                    output = self._network(*batch.args, **batch.kwargs)
                output = self._precision.widen(output)
                trace.bad = self._judge(output, batch, trace)
        except Exception:  # this looks for the cause of an error, and must not hide it
            trace.bad = trace.bad or bool(trace.nan)
        finally:
            for buffer, before in buffers:
                buffer.data.copy_(before)
        return trace

    def _judge(self, output: Any, batch: Batch, trace: _Trace) -> bool:
        prediction = self._objective.prediction(output, batch)
        rows = _bad_rows(prediction, batch.size)
        if rows is None:
            each = self._objective.per_example(prediction, batch)
            rows = None if each is None else _bad_rows(each, batch.size)
        trace.rows = rows
        loss = self._objective.loss(output, prediction, batch)
        return bool(self._objective.is_bad(loss, batch))

    @contextmanager
    def _watched(self, trace: _Trace) -> Iterator[None]:
        handles = [
            module.register_forward_hook(_hook(name, trace))
            for name, module in self._network.named_modules()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(name: str, trace: _Trace) -> Any:
    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        kind = type(module).__name__
        shown = f'"{name}" ({kind})' if name else f"the network ({kind})"
        for test, field in ((torch.isnan, "nan"), (torch.isinf, "infinite")):
            if not getattr(trace, field) and _any(output, test):
                inside = _any(inputs, test)
                where = "the input of" if inside else "the output of"
                setattr(trace, field, f"{where} {shown}")

    return look


def _named(batch: Batch) -> Iterator[tuple[str, Any]]:
    if batch.kwargs:
        for key, value in batch.kwargs.items():
            yield f'the input "{key}"', value
    elif len(batch.args) == 1:
        yield "the input", batch.args[0]
    for position, value in enumerate(batch.args if len(batch.args) > 1 else ()):
        yield f"the input {position}", value
    yield "the target", batch.target


def _bad_rows(value: Any, size: int | None, *, data: bool = False) -> list[int] | None:
    """Return the rows that are not finite, [] if they cannot be told, None if all are finite."""
    bad: list[Tensor] = []
    unknown = False

    def look(leaf: Any) -> None:
        nonlocal unknown
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return
        wrong = ~torch.isfinite(leaf)
        if data and bool((leaf[wrong] == -torch.inf).all()) and not bool(leaf[~wrong].any()):
            return  # 0 and -inf alone are a mask
        if not bool(wrong.any()):
            return
        if leaf.ndim and leaf.shape[0] == size:
            bad.append(wrong.reshape(leaf.shape[0], -1).any(1).cpu())
        else:
            unknown = True

    map_structure(value, look)
    if bad:
        rows: list[int] = torch.stack(bad).any(0).nonzero().flatten().tolist()
        return rows
    return [] if unknown else None


def _listed(rows: list[int], size: int | None) -> str:
    if not rows:
        return ""
    if len(rows) == size:
        return ", in every row of the batch"
    shown = ", ".join(str(row) for row in rows[:_MOST_ROWS])
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    word = "row" if len(rows) == 1 else "rows"
    return f", in {word} {shown}{more} of the batch's {size} (the first is 0)"


def _any(value: Any, test: Any) -> bool:
    found = False

    def look(leaf: Any) -> None:
        nonlocal found
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not found:
            found = bool(test(leaf).any())

    map_structure(value, look)
    return found


def _is_finite(tensor: Tensor) -> bool:
    values = tensor.detach()
    values = values._values() if values.is_sparse else values
    return bool(torch.isfinite(values).all())
