"""How a prediction and its loss come from what the network returned."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clarion.data.batch import Batch
from clarion.data.routing import inner_network
from clarion.data.size import get_batch_size
from clarion.engine.routes import put_part, take_part
from clarion.engine.terms import LossTerm, check_factors
from clarion.errors import InvalidArgumentError, InvalidTypeError, kind_of, quoted, suggestion
from clarion.metrics.base import StreamingMetric
from clarion.metrics.decomposable import DecomposableMetric
from clarion.metrics.names import names_as_list
from clarion.metrics.scale import check_scale
from clarion.metrics.several import SumOfLosses
from clarion.metrics.weighting import valid_targets

__all__ = ["Objective"]


class Objective:
    """The loss of a model and the part of the output that it judges.

    Args:
        loss_function: What the user gave as loss; a mapping of several by name; None for the loss
            that the network computes.
        prediction_key: The entry of the output that loss, metrics and ``predict`` see; None for
            ``logits`` of a transformers output called by keywords, else the output itself.
        factors: The factors of several losses in their sum, by name; 1 where none is given.
        network: The network, which may compute the loss.
    """

    def __init__(
        self,
        loss_function: Any,
        prediction_key: str | int | None = None,
        factors: Mapping[str, float] | None = None,
        network: nn.Module | None = None,
    ) -> None:
        self.computed_by_network = loss_function is None
        self._prediction_key = prediction_key
        self._terms: dict[str, LossTerm] = {}
        self._sum: SumOfLosses | None = None
        if isinstance(loss_function, Mapping) and not loss_function:
            raise InvalidArgumentError(
                "loss_function is an empty dict; give a loss for each output, by its name."
            )
        if isinstance(loss_function, Mapping):
            self._terms = {name: _named_term(name, loss) for name, loss in loss_function.items()}
            parts = {name: term.metric for name, term in self._terms.items()}
            self._sum = SumOfLosses(parts, check_factors(factors or {}, parts))
        elif factors is not None:
            raise InvalidArgumentError(
                "loss_weights are the factors of several losses, and loss_function is "
                f"{loss_function!r}. Pass a dict of losses by the names of the outputs."
            )
        else:
            own = _OwnLoss(network) if loss_function is None else loss_function
            self._term = LossTerm(own, alone=True)
        self.metric: Any = self._sum or self._term.metric

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

    @property
    def only_function(self) -> DecomposableMetric | None:
        """The one loss, if it is a function of the whole prediction and the target alone."""
        if self._sum is not None or self.computed_by_network or self._prediction_key is not None:
            return None
        return self._term.plain

    def takes_as_it_is(self, prediction: Any, target: Any) -> bool:
        """Tell whether the only loss is called with a target of this kind unchanged."""
        return self._term.takes_as_it_is(prediction, target)

    def align(self, prediction: Any, target: Any) -> Any:
        """Return the target in the shape that the loss compares with the prediction."""
        if self._sum is None:
            return self._term.align(prediction, target)
        aligned = {
            name: term.align(self._output(prediction, name), self._target(target, name))
            for name, term in self._terms.items()
        }
        return put_part(target, aligned, list(self._terms))

    def loss(self, output: Any, prediction: Any, batch: Batch) -> Tensor:
        """Return the loss of a batch, and add it to the mean over the pass.

        Returns:
            Shape (); with several losses the terms of their sum, shape (losses,).
        """
        target = batch.target if batch.mixed is None else batch.mixed
        if self._sum is None:
            judged = output if self.computed_by_network else prediction
            return self._term.loss(judged, target, batch, batch.weight)
        values = [
            term.loss(
                self._output(prediction, name),
                self._target(target, name),
                batch,
                self._weight(batch.weight, name),
            )
            for name, term in self._terms.items()
        ]
        return self._sum.combine(values)

    def weigh(self, batch: Batch) -> float | Tensor:
        """Return what the mean loss of a batch runs over, before the network is called.

        Returns:
            A number or a tensor of shape (); with several losses one entry each, (losses,).
        """
        if batch.is_filler:
            return self._weigh(batch) * 0
        return self._weigh(batch)

    def _weigh(self, batch: Batch) -> float | Tensor:
        # What is blended has no target to ignore or to weigh by its class.
        target = batch.target if batch.mixed is None else None
        if self._sum is None:
            return self._term.weigh(target, batch.size, batch.weight)
        weights = [
            term.weigh(
                None if target is None else self._target(target, name),
                batch.size,
                self._weight(batch.weight, name),
            )
            for name, term in self._terms.items()
        ]
        device = next((w.device for w in weights if isinstance(w, Tensor)), None)
        return torch.stack(
            [
                w.float() if isinstance(w, Tensor) else torch.full((), float(w), device=device)
                for w in weights
            ]
        )

    def is_bad(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return whether a loss is not finite although its mean runs over something.

        Args:
            loss: What `loss` returned.
            batch: The batch.

        Returns:
            Shape (), boolean, on the device of the loss, not read on the host.
        """
        bad = ~torch.isfinite(loss.detach())
        counts = self.weigh(batch)
        if isinstance(counts, Tensor):
            bad = bad & (counts.to(bad.device) > 0)
        elif not counts:
            bad = torch.zeros_like(bad)
        return bad.any()

    def per_example(self, prediction: Any, batch: Batch) -> Any:
        """Return the loss of each element, shape (N, *), by name; None if only means are known."""
        if self._sum is None:
            return self._term.per_example(prediction, batch.target)
        return {
            name: term.per_example(self._output(prediction, name), self._target(batch.target, name))
            for name, term in self._terms.items()
        }

    def check_scale(self, network: nn.Module, metrics: Sequence[Any]) -> None:
        """Warn of a last layer, or labels, that do not go with the loss or a metric."""
        if self.computed_by_network and self._term.metric.func.shifts_labels:
            _warn_of_shift(network, metrics)
        terms = list(self._terms.values()) if self._sum is not None else [self._term]
        own = [term.metric for term in terms]
        functions = [m.func for m in own if issubclass(type(m), DecomposableMetric)]
        if check_scale(network, functions, metrics):
            for term in terms:
                term.first_look = None

    def _output(self, prediction: Any, name: str) -> Any:
        return take_part(prediction, name, list(self._terms), "the network's output")

    def _target(self, target: Any, name: str) -> Any:
        return take_part(target, name, list(self._terms), "the target")

    def _weight(self, weight: Any, name: str) -> Any:
        if weight is None or isinstance(weight, Tensor):
            return weight
        return take_part(weight, name, list(self._terms), "the weight")


def _named_term(name: Any, loss_function: Any) -> LossTerm:
    term = LossTerm(loss_function)
    if not isinstance(name, str) or not issubclass(type(term.metric), DecomposableMetric):
        raise InvalidTypeError(
            f"loss_function is a dict with the entry {name!r}: {loss_function!r}; it has to map "
            'names of outputs to losses: names such as "mse", or callables (y_pred, y_true).'
        )
    return term


_MEANS_OVER_EXAMPLES = ("ForCTC", "ForRNNT", "ForTDT")
_IGNORED_PIXELS = ("semantic_loss_ignore_index", "loss_ignore_index")


class _OwnLoss:
    """The loss in the output of a network that computes it itself.

    Args:
        network: The network.

    Attributes:
        shifts_labels: Whether each token is judged by the label after it.
    """

    def __init__(self, network: nn.Module | None) -> None:
        network = inner_network(network)
        kind = type(network).__name__
        self.shifts_labels = _shifts_labels(network)
        self._counts_examples = any(name in kind for name in _MEANS_OVER_EXAMPLES)
        keys = _IGNORED_PIXELS if "ForSemanticSegmentation" in kind else ()
        config = getattr(network, "config", None)
        ignored = (getattr(config, key) for key in keys if hasattr(config, key))
        self._ignored: int = next(ignored, -100)

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

    def target_weight(self, y_true: Any) -> float | Tensor:
        """Return the number of targets that transformers does not ignore.

        A network that tells the next token has none for the first one; one that aligns a whole
        text with a recording has one for each example.
        """
        counts = not self._counts_examples
        if counts and isinstance(y_true, Tensor) and not y_true.is_floating_point():
            told = y_true[..., 1:] if self.shifts_labels and y_true.ndim else y_true
            return valid_targets(told, ignore_index=self._ignored)
        if isinstance(y_true, list) and y_true and isinstance(y_true[0], Mapping):
            return len(y_true)  # one for each example, such as the boxes in an image
        return 1 if y_true is None else get_batch_size(y_true)


def _warn_of_shift(network: nn.Module, metrics: Sequence[Any]) -> None:
    """Warn of metrics of clarion's, which compare predictions and targets as they stand."""
    ours = [m for m in metrics if type(m).__module__.startswith("clarion.metrics.")]
    streamed = [m for m in ours if issubclass(type(m), StreamingMetric)]
    names = [name for metric in streamed for name in names_as_list(metric.__name__)]
    if names:
        warnings.warn(
            f"{type(network).__name__} judges each token by the label after it, and the metrics "
            f"{quoted(names)} compare what stands in the same place. Give a function that shifts, "
            'as in ("perplexity", lambda y_pred, y_true: cross_entropy(y_pred[:, :-1].flatten(0, '
            "1), y_true[:, 1:].flatten()).exp()); exp of the loss is the perplexity as well.",
            stacklevel=4,
        )


def _shifts_labels(network: nn.Module | None) -> bool:
    """Tell whether a network of transformers judges each token by the label after it.

    Its forward then calls the library's loss of causal language models, the one for all classes
    that have none of their own.
    """
    if network is None or not hasattr(network, "loss_function") or not hasattr(network, "config"):
        return False
    try:
        calls = "self.loss_function(" in inspect.getsource(type(network).forward)
    except (OSError, TypeError):  # no source, as in a notebook that was left
        return False
    kind = getattr(network, "loss_type", None)
    return calls and (kind is None or "CausalLM" in getattr(network.loss_function, "__name__", ""))
