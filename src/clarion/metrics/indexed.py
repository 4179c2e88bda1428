"""Metrics of one of several outputs."""

from typing import Any

from clarion.errors import InvalidArgumentError
from clarion.metrics.base import Metric
from clarion.metrics.weighting import target_weight
from clarion.metrics.wrapping import wrap_metric

__all__ = ["IndexedArgumentMetric"]


class IndexedArgumentMetric(Metric):
    """A metric of ``y_pred[pred_index]`` and ``y_true[true_index]``.

    Args:
        metric: A callable, a metric, a name, or a pair ``(names, one of these)``.
        index: The index, or the key of a mapping, of both; excludes the other two.
        pred_index: The index or key of the prediction; None takes the whole.
        true_index: The index or key of the target; None takes the whole.

    Raises:
        InvalidArgumentError: If ``index`` is given with another one; it is a ``ValueError``.
    """

    def __init__(
        self, metric: Any, *, index: Any = None, pred_index: Any = None, true_index: Any = None
    ) -> None:
        super().__init__()
        if index is not None and not (pred_index is None and true_index is None):
            raise InvalidArgumentError(
                "IndexedArgumentMetric: index stands for pred_index and true_index both; give "
                f"either index={index!r} or the other two."
            )
        self.metric, self.__name__ = wrap_metric(metric)
        self.pred_index = pred_index if index is None else index
        self.true_index = true_index if index is None else index
        self._inner_weight = target_weight(self.metric)
        # What the mean of a loss runs over must be known of the chosen target.
        self.target_weight = None if self._inner_weight is None else self._weigh

    def forward(self, y_pred: Any, y_true: Any) -> Any:
        """Call the metric with the chosen prediction and target."""
        return self.metric(*self._chosen(y_pred, y_true))

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Update the metric with the chosen prediction and target."""
        self.metric.update(*self._chosen(y_pred, y_true))

    def compute(self) -> Any:
        """Return the value of the metric."""
        return self.metric.compute()

    def reset(self) -> None:
        """Reset the metric."""
        self.metric.reset()

    def _chosen(self, y_pred: Any, y_true: Any) -> tuple[Any, Any]:
        prediction = y_pred if self.pred_index is None else y_pred[self.pred_index]
        return prediction, self._target(y_true)

    def _target(self, y_true: Any) -> Any:
        return y_true if self.true_index is None else y_true[self.true_index]

    def _weigh(self, y_true: Any) -> Any:
        return self._inner_weight(self._target(y_true)) if self._inner_weight else None
