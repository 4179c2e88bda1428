"""One loss with all that belongs to it: alignment, weights, values per example."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clarion.arguments import check_keywords
from clarion.data.batch import Batch
from clarion.data.mixing import Mixed
from clarion.errors import InvalidArgumentError, InvalidTypeError, kind_of, quoted, suggestion
from clarion.metrics.alignment import Aligner, aligner_of
from clarion.metrics.decomposable import DecomposableMetric
from clarion.metrics.names import get_names_of_metric
from clarion.metrics.registry import get_metric
from clarion.metrics.scale import first_look_of
from clarion.metrics.unreduced import (
    LOSS_MODULES,
    takes_weight,
    unreduced_of,
    weighed,
    weighted_mean,
)
from clarion.metrics.wrapping import wrap_loss

__all__ = ["LossTerm", "check_factors", "with_options"]

_REDUCING = ("reduction", "size_average", "reduce")  # torch has two from before 0.4.1


class LossTerm:
    """A loss, and how a batch's target and weights come to it.

    Args:
        loss_function: What the user gave as loss.
        alone: Whether the target is the whole one of the batch, which nobody changes afterwards.

    Attributes:
        first_look: What looks at the first prediction and target; None if there is nothing to see.
    """

    def __init__(self, loss_function: Any, *, alone: bool = False) -> None:
        self.metric = wrap_loss(loss_function)
        # Asked of the type, since a mock pretends to be an instance.
        is_function = issubclass(type(self.metric), DecomposableMetric)
        func = self.metric.func if is_function else None
        self._waits = alone
        self._aligner = aligner_of(func) if is_function else Aligner()
        self._weigh_target = self.metric.target_weight if is_function else None
        self._unreduced = unreduced_of(func) if is_function else None
        self.first_look = first_look_of(func) if is_function else None
        self._takes_size = type(self.metric) is DecomposableMetric  # one below it may take less
        self._takes_weight = is_function and self._unreduced is None and takes_weight(func)

    def align(self, prediction: Any, target: Any) -> Any:
        """Return the target in the shape that the loss compares with the prediction."""
        return self._aligner.align(prediction, target)

    @property
    def plain(self) -> DecomposableMetric | None:
        """The loss, if it is a function ``(y_pred, y_true)`` and of nothing else."""
        is_function = issubclass(type(self.metric), DecomposableMetric)
        if not is_function or self._takes_weight or self.metric.wants_inputs:
            return None
        function: DecomposableMetric = self.metric
        return function

    def takes_as_it_is(self, prediction: Any, target: Any) -> bool:
        """Tell whether a target comes to the loss neither reshaped nor in another dtype."""
        aligned = self._aligner.align(prediction, target)
        return aligned is target and self._aligner.cast(prediction, target) is target

    def loss(self, prediction: Any, target: Any, batch: Batch, weight: Tensor | None) -> Tensor:
        """Return the loss of a batch, and add it to the mean over the pass.

        Args:
            prediction: What the loss judges.
            target: The target, aligned; or what is mixed of several.
            batch: The batch, for losses that ask for its inputs.
            weight: The weights of the examples, if they have any.
        """
        if isinstance(target, Mixed):
            target = target.resolved(prediction, self._aligner.align)
        target = self._aligner.cast(prediction, target)
        if self.first_look is not None:
            look, self.first_look = self.first_look, None
            with look(prediction, target):
                return self.loss(prediction, target, batch, weight)
        if weight is not None or self._takes_weight:
            return self._weighted(prediction, target, batch, weight)
        loss: Tensor
        if self._takes_size:
            judge = self.metric.defer if self._waits else self.metric.count
            loss = judge(prediction, target, batch.inputs, batch.size)
        elif getattr(self.metric, "wants_inputs", False) is True:
            loss = self.metric(prediction, target, batch.inputs)
        else:
            loss = self.metric(prediction, target)
        return loss

    def weigh(self, target: Any, size: int | None, weight: Tensor | None) -> float | Tensor:
        """Return what the mean loss of a batch runs over, before the network is called."""
        if weight is not None:
            counts = None if self._unreduced is None else self._unreduced.counts(target)
            return weighed(counts, weight)
        if self._weigh_target is not None and target is not None:
            known: float | Tensor = self._weigh_target(target)
            return known
        return size or 0

    def per_example(self, prediction: Any, target: Any) -> Tensor | None:
        """Return the loss of each element, shape (N, *); None if only their mean is known."""
        if self._unreduced is None or isinstance(target, Mixed):
            return None
        return self._unreduced.losses(prediction, self._aligner.cast(prediction, target))

    def _weighted(
        self, prediction: Any, target: Any, batch: Batch, weight: Tensor | None
    ) -> Tensor:
        if self._unreduced is not None and weight is not None:
            losses = self._unreduced.losses(prediction, target)
            loss, total = weighted_mean(losses, self._unreduced.counts(target), weight)
        elif self._takes_weight:
            if weight is None:
                weight = torch.ones(batch.size or 0, device=_device_of(prediction))
            loss, total = self.metric.func(prediction, target, weight), weight.sum()
        else:
            raise InvalidArgumentError(
                "The batches hold weights for their examples, and this loss function returns only "
                "the mean over a batch. Give it a third parameter named weight and return the "
                'weighted mean, or choose a loss of torch such as "cross_entropy".'
            )
        self.metric.add(loss, total.detach())
        return loss


def with_options(loss_function: Any, options: Mapping[str, Any] | None, network: nn.Module) -> Any:
    """Return the loss that a name and options stand for, as a module of torch.

    Args:
        loss_function: The name of a loss of torch, or a pair ``(name in the logs, name)``; or a
            mapping of several losses, of which those with options are such names.
        options: Arguments of torch's loss module: ``label_smoothing``, ``weight`` (one number per
            class, also a list), ``ignore_index``, ``pos_weight``, ``beta``, ``delta`` and so on;
            by name, if there are several losses; None for none.
        network: The network; numbers per class come to its device and dtype.

    Raises:
        InvalidArgumentError: If options do not go with this loss.
        UnknownArgumentError: If the loss has no such option.
    """
    if options is None:
        return loss_function
    if not isinstance(options, Mapping):
        raise InvalidTypeError(
            f"loss_options is {kind_of(options)}; it is a dict of arguments, for example "
            '{"label_smoothing": 0.1}.'
        )
    if isinstance(loss_function, Mapping):
        _check_names("loss_options", options, loss_function)
        changed = {n: with_options(loss_function[n], options[n], network) for n in options}
        return {**loss_function, **changed}
    name = loss_function[1] if isinstance(loss_function, tuple) else loss_function
    function = get_names_of_metric(get_metric(name))[1] if isinstance(name, str) else None
    module = None if function is None else LOSS_MODULES.get(function)
    if module is None:
        raise InvalidArgumentError(
            f"loss_options are for the losses of torch by name, and loss_function is {name!r}. "
            "Build the loss with its options, for example torch.nn.CrossEntropyLoss(...)."
        )
    check_keywords(module, options, "loss_options")
    for key in _REDUCING:
        if options.get(key, "mean") not in ("mean", "batchmean"):
            raise InvalidArgumentError(
                f"loss_options has {key}={options[key]!r}; clarion averages losses itself and "
                f"needs the mean. Leave {key} out."
            )
    return module(**{key: _as_option(key, value, network) for key, value in options.items()})


def check_factors(factors: Any, names: Mapping[str, Any]) -> dict[str, float]:
    """Return the factor of each loss, 1.0 where none is given.

    Args:
        factors: What the user gave as ``loss_weights``.
        names: The losses by name.

    Raises:
        InvalidTypeError: If it is no mapping of numbers.
        InvalidArgumentError: If it names something else.
    """
    if not isinstance(factors, Mapping):
        raise InvalidTypeError(
            f"loss_weights is {kind_of(factors)}; it is a dict with the names of loss_function, "
            'for example {"cls": 1.0, "reg": 0.1}.'
        )
    _check_names("loss_weights", factors, names)
    return {name: float(factors.get(name, 1.0)) for name in names}


def _check_names(argument: str, given: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    for name in given:
        if name not in names:
            hint = suggestion(str(name), names) or "."
            raise InvalidArgumentError(
                f'{argument} names "{name}", which is no loss{hint} The losses: {quoted(names)}.'
            )


def _as_option(key: str, value: Any, network: nn.Module) -> Any:
    if key not in ("weight", "pos_weight") or value is None:
        return value
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
    if dtype in (torch.bfloat16, torch.float16):
        dtype = torch.float32
    try:
        return torch.as_tensor(value, dtype=dtype, device=_device_of(parameter))
    except (TypeError, ValueError, RuntimeError) as error:
        what = f'"{value}"' if isinstance(value, str) else kind_of(value)
        raise InvalidTypeError(
            f"loss_options: {key} is {what}; it is one number per class, in the order of the "
            f'classes, for example {{"{key}": [1.0, 2.0]}}.'
        ) from error


def _device_of(prediction: Any) -> torch.device | None:
    return prediction.device if isinstance(prediction, Tensor) else None
