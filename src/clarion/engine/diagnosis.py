"""Failures of a step, told in the words of whoever passed the data."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from clarion.data.batch import Batch
from clarion.engine.remedies import dtype_name, remedy_of
from clarion.engine.stage import Stage
from clarion.errors import ClarionError, DataError, StepError, kind_of, quoted

__all__ = ["explain", "explain_backward", "explain_network"]

# Of these classes exactly: a class below them (out of memory, the user's own) means more.
_ABOUT_VALUES = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_MOST_PARTS = 6
_MOST_CHARACTERS = 300


def explain(
    error: Exception, part: str, stage: Stage, number: int, prediction: Any, batch: Batch
) -> None:
    """Raise an error that says which batch failed, with shapes and what would help.

    An error that is not about the values of the batch gains a note instead, and this returns.

    Args:
        error: What was raised.
        part: What was computed, for example ``loss``.
        stage: The stage.
        number: The number of the batch.
        prediction: The prediction.
        batch: The batch.

    Raises:
        StepError: If something failed on its values.
        DataError: If clarion itself found the values wrong.
    """
    place = f"{stage.name} batch {number - getattr(error, 'batches_ago', 0)}"
    if type(error) is DataError:
        raise DataError(f"The {part} failed on {place}: {error}") from error.__cause__
    if isinstance(error, ClarionError):
        return
    facts = f"y_pred {_described(prediction)}, y_true {_described(batch.target)}"
    chosen = part == "loss" and _is_chosen(prediction)
    if type(error) in _ABOUT_VALUES or (chosen and type(error) is NotImplementedError):
        remedy = (_remedy_for_choice if chosen else _remedy)(error, prediction, batch.target)
        raise StepError(f"The {part} failed on {place}: {facts}. {remedy}") from error
    error.add_note(f"This happened in the {part}, on {place}: {facts}.")


def explain_network(
    error: Exception, stage: Stage, number: int, batch: Batch, network: nn.Module
) -> None:
    """Add a note to an error of the network: the batch, what it was called with, a remedy.

    Args:
        error: See `explain`.
        stage: See `explain`.
        number: See `explain`.
        batch: See `explain`.
        network: The network that was called.
    """
    called = [_described(value) for value in batch.args]
    called += [f"{key}={_described(value)}" for key, value in batch.kwargs.items()]
    error.add_note(
        f"This happened in the network, on {stage.name} batch {number}, called with: "
        f"{_listed(called)}."
    )
    remedy = remedy_of(error, stage, batch, network)
    if remedy:
        error.add_note(remedy)


def explain_backward(error: Exception, loss: Any, stage: Stage, number: int) -> None:
    """Raise an error that says why a loss has no gradient; return if it has one.

    Args: see `explain`.

    Raises:
        StepError: If nothing could be trained with this loss.
    """
    place = f"{stage.name} batch {number}"
    if not isinstance(loss, Tensor):
        raise StepError(
            f"The loss function returned {kind_of(loss)} on {place}; to train, it must return a "
            "tensor of shape () that is computed from y_pred, without .item() or float()."
        ) from error
    if not loss.requires_grad:
        raise StepError(
            f"The loss on {place} does not depend on any weight that trains, so there is no "
            "gradient. Compute it from y_pred without .detach(), argmax or torch.no_grad(), and "
            "check that weights have requires_grad=True."
        ) from error
    error.add_note(f"This happened in the backward pass, on {place}.")
    if "through the graph a second time" in str(error):
        error.add_note(
            "Something in this batch was computed with gradients before it, such as data from "
            "another network or a state kept from the last batch. Detach it, as in x.detach()."
        )


def _remedy(error: Exception, prediction: Any, target: Any) -> str:
    text = str(error)
    said = f"It said: {_first_line(error)}."
    if prediction is None:
        return "The network returned None; let its forward end with a return."
    if not isinstance(prediction, Tensor) and isinstance(error, AttributeError | TypeError):
        return f"{said} {_remedy_for_structure(prediction)}"
    if not isinstance(target, Tensor):
        return _remedy_for_target(target, said)
    if not isinstance(prediction, Tensor) or prediction.is_nested or target.is_nested:
        return said
    if isinstance(error, IndexError) and "out of bounds" in text:
        return _remedy_for_index(prediction, text)
    if "between 0 and 1" in text:
        return _remedy_for_range(text)
    if target.is_floating_point() and "Long" in text:
        return (
            f"{said} Class indices are whole numbers: convert the target with y.long(), or "
            'choose a loss for real values such as "mse".'
        )
    if prediction.ndim and target.ndim and len(prediction) != len(target):
        return (
            f"y_pred has {len(prediction)} examples and y_true {len(target)}; each example needs "
            "one target, in the same order."
        )
    of_classes = not target.is_floating_point() and prediction.ndim == target.ndim + 1
    if of_classes and "must match the size" in text:
        return (
            f"{said} Class indices go with what reads the scores of several classes, such as the "
            'loss "cross_entropy" and the metrics "acc" and "f1".'
        )
    return said


def _is_chosen(prediction: Any) -> bool:
    """Return whether a prediction has no gradient by its dtype, as the result of argmax."""
    is_tensor = isinstance(prediction, Tensor)
    return is_tensor and not (prediction.is_floating_point() or prediction.is_complex())


def _remedy_for_choice(error: Exception, prediction: Any, target: Any) -> str:
    return (
        f"It said: {_first_line(error)}. y_pred is {dtype_name(prediction)}, which has no "
        "gradient: let the network return its scores, not the classes they choose; "
        ".argmax(1) goes after predict."
    )


def _remedy_for_target(target: Any, said: str) -> str:
    if target is None:
        return f"The batch has no target. {said}"
    if isinstance(target, list | tuple) and any(isinstance(one, str) for one in target):
        return f"{said} The targets are text: encode the classes as whole numbers from 0 first."
    return said


def _remedy_for_structure(prediction: Any) -> str:
    if isinstance(prediction, Mapping):
        first = "logits" if "logits" in prediction else next(iter(prediction), "...")
        held, key = f"{kind_of(prediction)} with keys {quoted(prediction)}", f'"{first}"'
    elif isinstance(prediction, list | tuple):
        held, key = f"{kind_of(prediction)} of {len(prediction)}", "0"
    else:
        return f"The network returned {kind_of(prediction)}; here a tensor was expected."
    return (
        f"The network returned {held}, and a tensor was expected. Say which part counts with "
        f"Model(..., prediction_key={key}), or use a function that takes the whole."
    )


def _remedy_for_range(text: str) -> str:
    if "target" in text:
        return (
            "This loss takes labels from 0 to 1: count the two classes from 0; for more classes, "
            'give the network one output per class and choose "cross_entropy".'
        )
    return (
        "This loss compares probabilities, from 0 to 1: let the network end with a sigmoid, "
        'or choose "bce_with_logits", which takes any numbers.'
    )


def _remedy_for_index(prediction: Tensor, text: str) -> str:
    classes = prediction.shape[1] if prediction.ndim > 1 else prediction.shape[-1]
    text = text.rstrip(".")
    if classes == 1:
        return (
            f"{text}: the network has a single output. Give it one output per class; or, for two "
            'classes by one output, choose the loss "bce_with_logits".'
        )
    return (
        f"{text}: the network has {classes} outputs, so class indices run from 0 to {classes - 1}. "
        "Give it one output per class, count the classes from 0, or mark what is to be ignored "
        "with -100."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    first = text.splitlines()[0][:_MOST_CHARACTERS].rstrip(".") if text else ""
    if isinstance(error, KeyError) or not first:
        return f"{type(error).__name__}: {first}".rstrip(": ")
    return first


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.is_nested:  # it has no shape
            return f"nested {dtype_name(value)}"
        return f"{tuple(value.shape)} {dtype_name(value)}"
    if isinstance(value, list | tuple):
        return f"{kind_of(value)} of [{_listed([_described(item) for item in value])}]"
    if isinstance(value, Mapping):
        entries = [f'"{key}" {_described(item)}' for key, item in value.items()]
        return f"{kind_of(value)} of [{_listed(entries)}]"
    return kind_of(value)


def _listed(parts: list[str]) -> str:
    more = len(parts) - _MOST_PARTS
    shown = parts[:_MOST_PARTS] + ([f"and {more} more"] if more > 0 else [])
    return ", ".join(shown)
