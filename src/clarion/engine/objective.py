"""How a prediction and its loss come from what the network returned."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.data.size import get_batch_size
from clarion.errors import InvalidArgumentError, kind_of, quoted, suggestion
from clarion.metrics.alignment import Aligner, aligner_of
from clarion.metrics.decomposable import DecomposableMetric
from clarion.metrics.weighting import valid_targets
from clarion.metrics.wrapping import wrap_loss

__all__ = ["Objective", "own_loss"]


class Objective:
    """The loss of a model and the part of the output that it judges.

    Args:
        loss_function: What the user gave as loss; None for the loss that the network computes.
        prediction_key: The entry of the output that loss, metrics and ``predict`` see; None for
            ``logits`` of a transformers output called by keywords, else the output itself.
    """

    def __init__(self, loss_function: Any, prediction_key: str | int | None = None) -> None:
        self.computed_by_network = loss_function is None
        self.metric = own_loss() if loss_function is None else wrap_loss(loss_function)
        self._prediction_key = prediction_key
        # Asked of the type, since a mock pretends to be an instance.
        is_function = issubclass(type(self.metric), DecomposableMetric)
        self._aligner = aligner_of(self.metric.func) if is_function else Aligner()
        self._weigh_target = self.metric.target_weight if is_function else None

    def prediction(self, output: Any, batch: Batch) -> Any:
        """Return what the loss, the metrics and ``predict`` see of an output."""
        key = self._prediction_key
        if key is None:
            # A transformers model called by its own keywords; a wrapper's output stays whole.
            is_model_output = hasattr(output, "to_tuple") and isinstance(output, Mapping)
            if not (batch.kwargs and is_model_output and "logits" in output):
                return output
            key = "logits"
        try:
            if isinstance(output, Tensor):  # an index would take an example
                raise TypeError("a tensor has no parts")
            return output[key]
        except (KeyError, TypeError, IndexError) as error:
            held, hint = kind_of(output), ""
            if isinstance(output, Mapping):
                held += f" with keys {quoted(output)}"
                hint = suggestion(str(key), map(str, output))
            raise InvalidArgumentError(
                f"prediction_key={key!r} is not in the output of the network{hint or '.'} "
                f"It returned {held}."
            ) from error

    def align(self, prediction: Any, target: Any) -> Any:
        """Return the target in the shape that the loss compares with the prediction."""
        return self._aligner.align(prediction, target)

    def loss(self, output: Any, prediction: Any, batch: Batch) -> Tensor:
        """Return the loss of a batch, and add it to the mean over the pass."""
        metric = self.metric
        if self.computed_by_network:
            loss: Tensor = metric(output, batch.target)
            return loss
        target = self._aligner.cast(prediction, batch.target)
        if getattr(metric, "wants_inputs", False) is True:
            loss = metric(prediction, target, batch.inputs)
        else:
            loss = metric(prediction, target)
        return loss

    def weigh(self, batch: Batch) -> float | Tensor:
        """Return what the mean loss of a batch runs over, before the network is called."""
        if self._weigh_target is not None and batch.target is not None:
            return self._weigh_target(batch.target)
        return batch.size or 0


class _OwnLoss:
    """The loss in the output of a network that computes it itself."""

    def __call__(self, output: Any, y_true: Any) -> Tensor:
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if loss is None:
            loss = getattr(output, "loss", None)
        if not isinstance(loss, Tensor):
            if hasattr(output, "loss") or (isinstance(output, Mapping) and "loss" in output):
                raise InvalidArgumentError(
                    f"The model has loss_function=None, and the network's own loss is {loss}: it "
                    "was called without a target. Give the batches the key that its forward "
                    'expects, usually "labels".'
                )
            raise InvalidArgumentError(
                "The model has loss_function=None, and the network's output "
                f"({kind_of(output)}) carries no loss of its own. Pass a loss function, for "
                'example "cross_entropy" or "mse".'
            )
        return loss

    @staticmethod
    def target_weight(y_true: Any) -> float | Tensor:
        """Return the number of targets that are not -100, as transformers ignores them."""
        if isinstance(y_true, Tensor) and not y_true.is_floating_point():
            return valid_targets(y_true)
        return 1 if y_true is None else get_batch_size(y_true)


def own_loss() -> DecomposableMetric:
    """Return the loss of networks that compute it themselves, as a metric named ``loss``."""
    return DecomposableMetric(_OwnLoss(), "loss")
