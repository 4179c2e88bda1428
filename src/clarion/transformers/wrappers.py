"""A transformers model, its own loss and its metrics, behind one argument and one output."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from clarion.errors import DataError, InvalidArgumentError, quoted, suggestion
from clarion.metrics.names import get_names_of_metric
from clarion.metrics.registry import get_metric
from clarion.metrics.weighting import TargetWeight, target_weight

__all__ = ["MetricWrapper", "ModelWrapper", "model_loss"]


class ModelWrapper(nn.Module):
    """Calls a transformer with the entries of one mapping as keyword arguments.

    Having one input and one output, it can stand in an ``nn.Sequential``.

    Args:
        transformer: The model to call.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """Return what the transformer returns for ``transformer(**inputs)``.

        Args:
            inputs: The arguments by name, as `TransformerCollator` makes them.

        Raises:
            DataError: If ``inputs`` is no mapping.
        """
        if not isinstance(inputs, Mapping):
            raise DataError(
                f"ModelWrapper got a {type(inputs).__name__}; it needs a mapping from argument "
                "names to tensors. Collate with TransformerCollator."
            )
        return self.transformer(**inputs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the transformer as its own ``save_pretrained`` does, so that transformers loads it.

        Args:
            args: The directory, as in transformers.
            kwargs: The other arguments, as in transformers.
        """
        return self.transformer.save_pretrained(*args, **kwargs)  # type: ignore[operator]


def model_loss(outputs: Any, targets: Any) -> Tensor:
    """Return the loss that a transformer has computed itself.

    Its mean over an epoch counts every example alike. For models whose loss is a mean over
    tokens, ``Model(transformer, optimizer, loss_function=None)`` is exact.

    Args:
        outputs: What the model returned; it has to have got the labels among its inputs.
        targets: Not used.

    Raises:
        InvalidArgumentError: If the output has no loss.
    """
    loss: Tensor | None = outputs.get("loss") if isinstance(outputs, Mapping) else outputs["loss"]
    if loss is None:
        raise InvalidArgumentError(
            f"model_loss: the output of the model holds {quoted(outputs)} and no loss. "
            'The model computes one if its inputs hold "labels": collate with remove_labels=False.'
        )
    return loss


class MetricWrapper(nn.Module):
    """A metric of one entry of the output and, if so wished, of one entry of the target.

    A metric with a state keeps it: its value over an epoch is its own.

    Args:
        metric: A callable ``(y_pred, y_true)``, a metric, a name, or a pair ``(name, metric)``.
        pred_key: The entry of the model's output that is ``y_pred``.
        y_key: The entry of the target that is ``y_true``, if the target is a mapping; None for
            the whole target.

    Attributes:
        __name__: The name or names of the metric; the name of its class if it has none.
    """

    def __init__(self, metric: Any, pred_key: str = "logits", y_key: str | None = None) -> None:
        super().__init__()
        self.__name__, self.metric = get_names_of_metric(get_metric(metric))
        self.pred_key = pred_key
        self.y_key = y_key
        weigh = target_weight(self.metric)
        if weigh is not None:
            self.target_weight = functools.partial(_weight_of_entry, weigh, y_key)

    def forward(self, outputs: Any, y_true: Any) -> Any:
        """Return what the metric returns for its part of the output and of the target.

        Args:
            outputs: What the model returned: a mapping, or a transformers output.
            y_true: The target.

        Raises:
            DataError: If the output or the target has no such entry.
        """
        return self.metric(self._prediction(outputs), self._target(y_true))

    def __getattr__(self, name: str) -> Any:
        # compute, reset and update are there exactly if the wrapped metric has them.
        if name in ("compute", "reset"):
            return getattr(self.metric, name)
        if name == "update":
            return self._updating(self.metric.update)
        return super().__getattr__(name)

    def _updating(self, update: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        return lambda outputs, y_true: update(self._prediction(outputs), self._target(y_true))

    def _prediction(self, outputs: Any) -> Any:
        return _entry(outputs, self.pred_key, "pred_key", "the output of the model")

    def _target(self, y_true: Any) -> Any:
        return _target_entry(y_true, self.y_key)


def _weight_of_entry(weigh: TargetWeight, y_key: str | None, y_true: Any) -> int | float | Tensor:
    return weigh(_target_entry(y_true, y_key))


def _target_entry(y_true: Any, y_key: str | None) -> Any:
    return y_true if y_key is None else _entry(y_true, y_key, "y_key", "the target")


def _entry(holder: Any, key: str, argument: str, what: str) -> Any:
    try:
        return holder[key]
    except (KeyError, IndexError, TypeError) as error:
        listed = list(holder) if isinstance(holder, Mapping) else []
        hint = suggestion(key, listed) or "."
        held = f"holds {quoted(listed)}" if listed else f"is a {type(holder).__name__}"
        raise DataError(f'MetricWrapper({argument}="{key}"): {what} {held}{hint}') from error
