"""Weights averaged over the course of a training."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from clarion.engine.parts import Again, Plan, UpdatePart
from clarion.errors import (
    CheckpointError,
    InvalidArgumentError,
    UnknownArgumentError,
    UnknownNameError,
    quoted,
    suggestion,
)

__all__ = ["WeightAverage", "check_average"]

_OPTIONS: dict[str, tuple[str, ...]] = {
    "ema": ("decay", "warmup", "update_bn"),
    "swa": ("start", "swa_lr", "update_bn"),
}


class WeightAverage(UpdatePart):
    """An average of the weights that the optimizer changes, kept beside them.

    ``"ema"`` follows every optimizer step with an exponential moving average: the average becomes
    ``decay * average + (1 - decay) * weights``. With ``warmup`` the decay is at most
    ``(1 + n) / (10 + n)`` after n averages, so that a short training forgets where it began.
    ``"swa"`` is the plain mean of the weights at the ends of epochs from ``start`` on. Both begin
    as a copy of the first weights that they see. Reduced floats are averaged in float32. Buffers
    are not averaged: the network's present ones go with the average, unless batch statistics are
    counted anew for it.

    Args:
        network: The network, which knows the parameters' names.
        optimizer: The optimizer; what it holds is averaged.
        kind: ``"ema"`` or ``"swa"``.
        decay: The decay of ``"ema"``, in [0, 1).
        warmup: Whether the decay of ``"ema"`` grows to its value.
        start: The first epoch that counts in ``"swa"``, or the share of the epochs before it.
        swa_lr: The learning rate of every parameter group from that epoch on; None leaves it.
        update_bn: Whether the statistics of batch normalisation are counted anew for the average,
            by a pass over the train data at the end of each epoch that counts.

    Attributes:
        count: How often weights have been taken into the average.

    Source:
        Polyak and Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407 (SWA). The warm-up is
        that of TensorFlow's ExponentialMovingAverage.
    """

    name = "average"

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        kind: str = "ema",
        *,
        decay: float = 0.999,
        warmup: bool = True,
        start: float = 0.75,
        swa_lr: float | None = None,
        update_bn: bool = False,
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._kind = kind
        self._decay = decay
        self._warmup = warmup
        self._start = start
        self._swa_lr = swa_lr
        self._update_bn = update_bn
        self._first_epoch: int | None = None
        self._epoch = 0
        self._rates: list[float] = []
        self._statistics: list[Tensor] = []
        self._average: list[Tensor] = []
        self.count = 0

    def begin(self, plan: Plan) -> None:
        """Work out the first epoch that counts; begin a new average with a new training."""
        if plan.done_steps == 0:
            self._average, self._statistics, self.count = [], [], 0
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=False):
                group["lr"] = rate
            self._rates = []
        if self._kind == "swa":
            self._first_epoch = self._epoch_of(plan.epochs)
        if plan.inside and self._rates:  # a schedule has just set another one
            self._hold_rate()

    def begin_epoch(self, epoch: int) -> None:
        """Note which epoch it is."""
        self._epoch = epoch

    def before_step(self, step: int, again: Again | None) -> None:
        """Set the learning rate of the epochs that count, whatever a schedule says."""
        first = self._first_epoch
        if self._swa_lr is None or first is None or self._epoch < first:
            return
        self._rates = self._rates or [float(g["lr"]) for g in self._optimizer.param_groups]
        self._hold_rate()

    def after_step(self, step: int) -> None:
        """Take the new weights into the moving average."""
        if self._kind == "ema":
            decay = self._decay
            if self._warmup:
                decay = min(decay, (1 + self.count) / (10 + self.count))
            self._take(1.0 - decay)

    def end_epoch(self, epoch: int) -> None:
        """Take the weights at the end of an epoch into the mean."""
        if self._kind == "swa" and self._counts_epoch(epoch):
            self._take(1.0 / (self.count + 1))

    @property
    def recounts(self) -> bool:
        """Whether the statistics of batch normalisation are to be counted anew now."""
        return self._update_bn and bool(self._average) and self._counts_epoch(self._epoch)

    def recount(self, batches: Iterable[Any], call: Callable[[Any], Any]) -> None:
        """Count the statistics of batch normalisation anew, for the averaged weights.

        Args:
            batches: The train batches.
            call: What runs the network on one of them, and is also called with None in the end, to
                give several ranks the same statistics.

        Source:
            ``torch.optim.swa_utils.update_bn``, which does it.
        """
        counted = [buffer for _, buffer in self._counted()]
        present = [buffer.clone() for buffer in counted]
        try:
            with self.applied():
                update_bn(batches, _Called(self._network, call))
                call(None)
                statistics = [buffer.clone() for buffer in counted]
        finally:
            for buffer, value in zip(counted, present, strict=True):
                buffer.copy_(value)
        self._statistics = statistics

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the network inside, and the trained weights back afterwards.

        Without an average so far this changes nothing; inside of itself neither.
        """
        if not self._average:
            yield
            return
        weights = self._weights()
        trained = [weight.detach().clone() for weight in weights]
        statistics = [buffer for _, buffer in self._counted()] if self._statistics else []
        present = [buffer.clone() for buffer in statistics]
        try:
            _copy(self._placed(weights), weights)
            for buffer, value in zip(statistics, self._statistics, strict=True):
                buffer.copy_(value)
            yield
        finally:
            _copy(trained, weights)
            for buffer, value in zip(statistics, present, strict=True):
                buffer.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the average by the names of the parameters."""
        names = self._names() if self._average else []
        state = {"count": self.count, "weights": dict(zip(names, self._average, strict=True))}
        if self._statistics:
            counted = [name for name, _ in self._counted()]
            state["statistics"] = dict(zip(counted, self._statistics, strict=True))
        if self._rates:
            state["rates"] = list(self._rates)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the count and the average.

        Raises:
            CheckpointError: If it is the average of other parameters.
        """
        saved = state["weights"]
        names = self._names()
        if saved and set(saved) != set(names):
            raise CheckpointError(
                "The averaged weights in the checkpoint are those of other parameters. Build the "
                "same network and the same optimizer."
            )
        self.count = int(state["count"])
        self._average = [saved[name].detach().clone() for name in names] if saved else []
        counted = state.get("statistics", {})
        self._statistics = [counted[name].clone() for name, _ in self._counted() if name in counted]
        self._rates = list(state.get("rates", ()))

    def _hold_rate(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._swa_lr

    def _take(self, weight: float) -> None:
        weights = [parameter.detach() for parameter in self._weights()]
        if not self._average:
            self._average = [_wide(value).clone() for value in weights]
        else:
            average = self._placed(weights)
            torch._foreach_lerp_(average, [_wide(value) for value in weights], weight)
        self.count += 1

    def _counts_epoch(self, epoch: int) -> bool:
        return self._kind == "ema" or (self._first_epoch is not None and epoch >= self._first_epoch)

    def _counted(self) -> list[tuple[str, Tensor]]:
        """Return the statistics of batch normalisation, with their names."""
        layers = [(n, m) for n, m in self._network.named_modules() if isinstance(m, _BatchNorm)]
        return [(f"{n}.{key}", buffer) for n, m in layers for key, buffer in m.named_buffers()]

    def _weights(self) -> list[Parameter]:
        listed = (p for group in self._optimizer.param_groups for p in group["params"])
        return [p for p in listed if p.is_floating_point() or p.is_complex()]

    def _names(self) -> list[str]:
        names = {parameter: name for name, parameter in self._network.named_parameters()}
        return [names[parameter] for parameter in self._weights()]

    def _placed(self, weights: list[Any]) -> list[Tensor]:
        """Return the average on the devices of the weights, which may have moved."""
        if any(a.device != w.device for a, w in zip(self._average, weights, strict=True)):
            pairs = zip(self._average, weights, strict=True)
            self._average = [average.to(weight.device) for average, weight in pairs]
        return self._average

    def _epoch_of(self, epochs: int | None) -> int:
        if isinstance(self._start, int):
            return self._start
        if epochs is None:
            raise InvalidArgumentError(
                f"average: start={self._start} is a share of the epochs, whose number is unknown. "
                "Say the first epoch as a whole number."
            )
        return min(math.floor(self._start * epochs) + 1, epochs)


def check_average(average: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the kind and the options of the average that a user means, or None for none.

    Args:
        average: ``"ema"``, ``"swa"``, or a dict with one of them under ``"kind"`` and options
            beside it.

    Raises:
        UnknownNameError: If there is no such average.
        UnknownArgumentError: If it has no such option.
        InvalidArgumentError: If a value cannot work.
    """
    if average is None:
        return None
    options = dict(average) if isinstance(average, Mapping) else {"kind": average}
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in _OPTIONS:
        raise UnknownNameError(
            f'average is {average!r}; it is "ema" or "swa", or a dict such as '
            '{"kind": "ema", "decay": 0.999}.'
        )
    for option in options:
        if option not in _OPTIONS[kind]:
            raise UnknownArgumentError(
                f'The average "{kind}" has no option "{option}"'
                f"{suggestion(option, _OPTIONS[kind]) or '.'} Its options: "
                f"{quoted(_OPTIONS[kind])}."
            )
    rate = options.get("swa_lr")
    if rate is not None and not rate > 0.0:
        raise InvalidArgumentError(f"average: swa_lr is {rate}; it is a learning rate above 0.")
    decay, start = options.get("decay", 0.5), options.get("start", 1)
    if not 0.0 <= decay < 1.0:
        raise InvalidArgumentError(f"average: decay is {decay}; it is in [0, 1).")
    if start < 1 if isinstance(start, int) else not 0.0 <= start < 1.0:
        raise InvalidArgumentError(
            f"average: start is {start}; it is the number of an epoch, or the share of the epochs "
            "before it, in [0, 1)."
        )
    return kind, options


class _Called(nn.Module):
    """A network that is called with what ``call`` makes of a batch."""

    def __init__(self, network: nn.Module, call: Callable[[Any], Any]) -> None:
        super().__init__()
        self.network = network
        self._call = call

    def forward(self, batch: Any) -> Any:
        return self._call(batch)


@torch.no_grad()
def _copy(values: list[Tensor], weights: list[Parameter]) -> None:
    # In place: compiled graphs and wrappers of the network hold on to the tensors.
    torch._foreach_copy_([weight.data for weight in weights], values)


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
