"""Failures of a step, told in the words of whoever passed the data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from clarion.data.batch import Batch
from clarion.errors import ClarionError, DataError, StepError

__all__ = ["explained"]

_LIKELY = (IndexError, RuntimeError, TypeError, ValueError)


@contextmanager
def explained(part: str, prediction: Any, batch: Batch, number: int) -> Iterator[None]:
    """Say which batch failed, with shapes and dtypes, and what would help.

    Args:
        part: What is computed inside, ``loss`` or ``metrics``.
        prediction: The prediction.
        batch: The batch.
        number: The number of the batch.

    Raises:
        StepError: If something inside failed on its values.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"Batch {number}: {error}") from error
    except ClarionError:
        raise
    except _LIKELY as error:
        facts = f"y_pred {_described(prediction)}, y_true {_described(batch.target)}"
        remedy = _remedy(prediction, batch.target, error)
        raise StepError(f"The {part} failed on batch {number}: {facts}. {remedy}") from error


def _remedy(prediction: Any, target: Any, error: Exception) -> str:
    text = str(error)
    if isinstance(error, IndexError) and "out of bounds" in text and isinstance(prediction, Tensor):
        classes = prediction.shape[1] if prediction.ndim > 1 else prediction.shape[-1]
        return (
            f"{text.rstrip('.')}: the network has {classes} outputs, so class indices run from 0 "
            f"to {classes - 1}. Give it one output per class, or count the classes from 0."
        )
    if isinstance(target, Tensor) and isinstance(prediction, Tensor):
        by_class = prediction.ndim > target.ndim and target.is_floating_point()
        if (
            by_class and "expected scalar type Long" in text
        ) or "not implemented for 'Float'" in text:
            return (
                '"cross_entropy" takes class indices: convert the target with y.long(), or choose '
                'a loss for real values such as "mse".'
            )
    first_line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"It said: {first_line}"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {', '.join(_described(item) for item in value)}"
    if isinstance(value, Mapping):
        return "a mapping of " + ", ".join(f'"{k}" {_described(v)}' for k, v in value.items())
    return f"a {type(value).__name__}"
