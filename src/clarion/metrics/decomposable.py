"""Functions of a batch, averaged over batches by what their own mean runs over."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clarion.data.size import agreed_size
from clarion.metrics.base import Metric, accumulation_dtype
from clarion.metrics.blocks import (
    MOST_BATCHES,
    add_batches_ago,
    is_small,
    lasting,
    portions,
)
from clarion.metrics.names import Names, get_names_of_metric, names_as_list
from clarion.metrics.values import check_count, values_in_order
from clarion.metrics.weighting import (
    TargetWeight,
    Weight,
    target_weight,
    valid_targets,
    weight_of,
    weights_of,
)

__all__ = [
    "DecomposableMetric",
    "convert_decomposable_metric_to_object",
    "is_stateful",
    "names_inputs",
]


class DecomposableMetric(Metric):
    """The weighted mean over batches of what a function returns for each of them.

    The sums stay on the device, in float64 where it has it, and nothing is read on the host when
    the function returns tensors. Called, it returns the function's own output, with its gradient:
    so it serves as a loss.

    Args:
        func: A callable ``(y_pred, y_true)``; one that names a third parameter ``inputs`` gets
            the inputs of the batch too. It returns a number, a tensor, or a list, tuple or
            mapping of them: one value per name.
        names: The name of the value, or the names of the values.
        weight: A function ``(y_pred, y_true)`` that returns what the mean runs over; `weight_of`
            the function if omitted: the valid targets of cross-entropy and accuracy, else the
            number of examples.

    Attributes:
        func: The function.
        keys: The keys of a mapping that it may return: its own names, whatever the logs say.
        target_weight: What the mean runs over as a function of ``y_true`` alone, None if it is
            the number of examples or depends on the prediction.
    """

    def __init__(
        self, func: Callable[..., Any], names: Names, weight: Weight | None = None
    ) -> None:
        super().__init__()
        self.func = func
        self.names = names_as_list(names)
        self.__name__ = self.names
        own = names_as_list(get_names_of_metric(func)[0]) if hasattr(func, "__name__") else []
        self.keys = own if len(own) == len(self.names) else self.names
        self.wants_inputs = names_inputs(func)
        self._weigh = weight or weight_of(func)
        self._weighs_itself = weight is not None
        self.target_weight: TargetWeight | None = None if weight else target_weight(func)
        # Class weights may be changed between batches: such a batch is weighed at once.
        weigh = self.target_weight
        known = weigh if isinstance(weigh, functools.partial) else None
        self._waits = weigh is not None and not (known and known.keywords.get("weight") is not None)
        is_read = known is not None and len(known.args) == 1 and known.args[0] is func
        self._module: Any = func if is_read and isinstance(func, nn.Module) else None
        self._ignored: Any = None  # the index that does not count in what waits
        self.reset()

    def forward(self, y_pred: Any, y_true: Any, inputs: Any = None) -> Any:
        """Add one batch and return what the function returned, unchanged."""
        return self.count(y_pred, y_true, inputs)

    def count(self, y_pred: Any, y_true: Any, inputs: Any = None, size: int | None = None) -> Any:
        """Do the same as a call, for somebody who knows how many examples the batch has.

        Args:
            y_pred: The prediction.
            y_true: The target.
            inputs: The inputs of the batch.
            size: The number of examples; None for what prediction and target tell.
        """
        output = self.func(y_pred, y_true, *([inputs] if self.wants_inputs else []))
        self._accumulate(output, self._weight_of(y_pred, y_true, size))
        return output

    def defer(self, y_pred: Any, y_true: Any, inputs: Any = None, size: int | None = None) -> Any:
        """Do the same as a call, and count a small target when somebody looks at the sums.

        Args:
            y_pred: The prediction.
            y_true: The target. Nobody may change it afterwards.
            inputs: The inputs of the batch.
            size: The number of its examples.
        """
        func = self.func
        output = func(y_pred, y_true, inputs) if self.wants_inputs else func(y_pred, y_true)
        self.note(output, y_pred, y_true, size)
        return output

    def note(
        self,
        output: Any,
        y_pred: Any,
        y_true: Any,
        size: int | None = None,
        *,
        lasts: bool = False,
    ) -> None:
        """Count a batch by what the function has returned for it, as `defer` does.

        Args:
            output: What the function returned; its only value as a number, if somebody knows it.
            y_pred: The prediction.
            y_true: The target; nobody may change it afterwards if it is small.
            size: The number of examples.
            lasts: Whether nobody will write into the memory of the output again.
        """
        module = self._module
        waits = self._waits and (module is None or module._buffers["weight"] is None)
        if not waits or not is_small(y_true):
            self._accumulate(output, self._weight_of(y_pred, y_true, size), lasts=lasts)
            return
        if module is not None and module.ignore_index != self._ignored:
            self._fold()
            self._ignored = module.ignore_index
        waiting = self._waiting
        waiting.append((self._kept(output, lasts=lasts), y_true))
        if len(waiting) == MOST_BATCHES:
            self._fold()

    def note_all(
        self,
        outputs: Sequence[Any],
        y_preds: Sequence[Any],
        y_trues: Sequence[Tensor],
        sizes: Sequence[int | None] | None = None,
    ) -> None:
        """Count several batches as `note` does, into whose outputs nobody will write again.

        Args:
            outputs: What the function returned for them.
            y_preds: Their predictions.
            y_trues: Their targets.
            sizes: Their numbers of examples; not asked for where a target tells what it counts.
        """
        module = self._module
        counts = module is None or (
            module._buffers["weight"] is None and module.ignore_index == self._ignored
        )
        waits = self._waits and counts and len(self.names) == 1
        shapes = {getattr(output, "shape", None) for output in outputs}
        if not (waits and all(map(is_small, y_trues)) and shapes == {torch.Size()}):
            known = [None] * len(outputs) if sizes is None else sizes
            for ago, *batch in zip(
                range(len(outputs))[::-1], outputs, y_preds, y_trues, known, strict=True
            ):
                try:
                    self.note(*batch, lasts=True)
                except Exception as error:
                    add_batches_ago(error, ago)
                    raise
            return
        batches = list(zip(outputs, y_trues, strict=True))
        for portion in portions(len(self._waiting), len(batches)):
            self._waiting += batches[portion]
            if len(self._waiting) == MOST_BATCHES:
                self._fold()

    def update(self, y_pred: Any, y_true: Any, inputs: Any = None) -> None:
        """Add one batch."""
        self.forward(y_pred, y_true, inputs)

    def add(self, output: Any, weight: int | float | Tensor) -> None:
        """Add one batch by what the function returned for it, and what that mean runs over."""
        self._accumulate(output, weight)

    def compute(self) -> NDArray[np.float64]:
        """Return the means since the last reset, shape (number of names,); nan before a batch."""
        return self.compute_tensor().cpu().double().numpy()

    def compute_tensor(self) -> Tensor:
        """Return the same as `compute` on the device, without reading it on the host."""
        sums = self.sums
        return torch.full((len(self.names),), torch.nan) if sums is None else self.conclude(sums)

    def conclude(self, sums: Tensor) -> Tensor:
        """Return the means, shape (number of names,), that these sums amount to."""
        return sums[:-1] / sums[-1]

    def reset(self) -> None:
        """Forget all batches."""
        self._waiting: list[tuple[Tensor | float, Tensor]] = []
        self._weighed: list[tuple[Tensor | float, Tensor]] = []
        self._ignored = None if self._module is None else self._module.ignore_index
        self._total: Tensor | float | None = None
        self._weight: int | float | Tensor = 0

    @property
    def sums(self) -> Tensor | None:
        """The weighted sum of each value, then the weight; None before the first batch.

        Shape (number of names + 1,). Sums of several ranks add up, and may be put back.
        """
        self._fold()
        if self._total is None:
            return None
        total = torch.as_tensor(self._total, dtype=_dtype_of(self._total))
        weight = torch.as_tensor(self._weight, dtype=total.dtype, device=total.device)
        return torch.cat([total.reshape(-1), weight.reshape(1)])

    @sums.setter
    def sums(self, sums: Tensor | None) -> None:
        self.reset()
        if sums is not None:
            self._total, self._weight = sums[:-1], sums[-1]

    def pass_state(self) -> dict[str, Any]:
        """Return what has been gathered since the last reset; batches that wait go on waiting."""
        return {
            "total": self._total,
            "weight": self._weight,
            "waiting": [list(one) for one in self._waiting],
            "weighed": [list(one) for one in self._weighed],
        }

    def load_pass_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `pass_state` returned."""
        self._total, self._weight = state["total"], state["weight"]
        self._waiting = [(value, target) for value, target in state["waiting"]]
        self._weighed = [(value, weight) for value, weight in state["weighed"]]

    def _weight_of(self, y_pred: Any, y_true: Any, size: int | None) -> int | float | Tensor:
        if self._weighs_itself:
            return self._weigh(y_pred, y_true)
        if self.target_weight is None:
            return agreed_size(y_pred, y_true, size)
        if y_true is None and size is not None:  # what is judged has its target inside
            return size
        return self._weigh(y_pred, y_true)

    def _accumulate(
        self, output: Any, weight: int | float | Tensor, *, lasts: bool = False
    ) -> None:
        value = self._kept(output, lasts=lasts)
        if isinstance(weight, Tensor):
            self._weighed.append((value, weight))
            if len(self._weighed) == MOST_BATCHES:
                self._fold()
        elif weight:
            wide = value.to(_dtype_of(value)) if isinstance(value, Tensor) else value
            self._count(wide * weight, weight)

    def _fold(self) -> None:
        """Take what waits into the sums at once: that costs as much as to take in one of them."""
        if self._weighed:
            values, weights = zip(*self._weighed, strict=True)
            self._weighed = []
            self._take_in(values, torch.stack(weights))
        if self._waiting and self.target_weight is not None:
            values, targets = zip(*self._waiting, strict=True)
            self._waiting = []
            weigh = self.target_weight
            if self._module is not None:  # as it was when they came
                weigh = functools.partial(valid_targets, ignore_index=self._ignored)
            self._take_in(values, weights_of(weigh, targets))

    def _take_in(self, values: Sequence[Tensor | float], weights: Tensor) -> None:
        value = _stacked(values)
        weight = weights.to(value)
        shaped = weight.reshape(-1, *[1] * (value.ndim - 1))
        # The mean over nothing is nan: it counts nothing and must not spoil the sum.
        self._count(torch.where(shaped > 0, value * shaped, 0.0).sum(0), weight.sum())

    def _count(self, part: Tensor | float, weight: int | float | Tensor) -> None:
        """Add what a batch, or several, amount to."""
        total = self._total
        if isinstance(total, Tensor) and isinstance(part, Tensor):
            total = total.to(part.device)  # the model may have moved
        self._total = part if total is None else total + part
        self._weight = self._weight + weight

    def _kept(self, output: Any, *, lasts: bool = False) -> Tensor | float:
        """Return the values of an output as they are now, shape (names,), or () for a single one.

        A number stays one: that costs less than a tensor of it.
        """
        single = len(self.names) == 1
        if single and isinstance(output, float):
            return output
        if single and isinstance(output, Tensor) and output.ndim == 0:
            return output if lasts else lasting(output)
        values = self._values(output).clone()
        return values.reshape(()) if single else values

    def _values(self, output: Any) -> Tensor:
        if isinstance(output, Tensor):
            values = output.detach().reshape(-1)
            check_count(values.numel(), self.names)
            return values
        listed = values_in_order(output, self.names, self.keys)
        if any(isinstance(value, Tensor) for value in listed):
            device = next(value.device for value in listed if isinstance(value, Tensor))
            return torch.stack([torch.as_tensor(value, device=device) for value in listed])
        return torch.tensor(listed, dtype=torch.float64)


def _stacked(values: Sequence[Tensor | float]) -> Tensor:
    """Return the values of several batches, shape (batches, ...), in the dtype of the sums."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return torch.tensor(values, dtype=torch.float64)
    dtype, device = _dtype_of(tensors[0]), tensors[0].device
    if len(tensors) < len(values):
        tensors = [torch.as_tensor(value, dtype=dtype, device=device) for value in values]
    return torch.stack(tensors).to(dtype)


def _dtype_of(value: Tensor | float) -> torch.dtype:
    return accumulation_dtype(value.device) if isinstance(value, Tensor) else torch.float64


def convert_decomposable_metric_to_object(
    metric: Any, names: Names, is_epoch_metric: bool = False
) -> Any:
    """Return a metric with a state: the metric itself if it has one, else its mean over batches.

    Args:
        metric: A stateful metric or a callable ``(y_pred, y_true)``.
        names: The name or names of its values.
        is_epoch_metric: Whether it will be updated rather than called.
    """
    if is_stateful(metric, is_epoch_metric=is_epoch_metric):
        return metric
    return DecomposableMetric(metric, names)


def is_stateful(metric: Any, *, is_epoch_metric: bool = False) -> bool:
    """Tell whether an object is a metric with a state: it has ``compute`` and ``reset``.

    Args:
        metric: The object, which may be a mock of a metric.
        is_epoch_metric: Whether it must have ``update`` as well.
    """
    methods = ["compute", "reset", *(["update"] if is_epoch_metric else [])]
    # A bare mock has every attribute, so that objects which are no modules are asked by type.
    holder = metric if isinstance(metric, nn.Module) else type(metric)
    return all(callable(getattr(holder, method, None)) for method in methods)


def names_inputs(func: Any) -> bool:
    """Tell whether a function names a third parameter ``inputs``, after prediction and target.

    Args:
        func: A function, a bound method, or a module, whose ``forward`` is asked.
    """
    try:
        called = func.forward if isinstance(func, nn.Module) else func
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    return any(p.name == "inputs" and p.kind is not p.VAR_POSITIONAL for p in parameters[2:3])
