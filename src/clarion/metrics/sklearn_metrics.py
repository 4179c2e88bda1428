"""Functions of scikit-learn, or of its kind, over all rows of a pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarion.errors import InvalidArgumentError, InvalidTypeError, StepError, kind_of
from clarion.metrics.base import Metric
from clarion.metrics.names import Names, names_as_list
from clarion.metrics.rows import ArrayRows

__all__ = ["SKLearnMetrics"]


class SKLearnMetrics(Metric):
    """One function of scikit-learn's kind, or several, over everything since the last reset.

    They are called ``func(y_true, y_pred, sample_weight=..., **kwargs)``. All rows are kept in the
    memory of the host until the next reset, in one array each of predictions, targets and weights:
    with C float32 scores and an int64 target, 4 C + 8 bytes a row, up to a quarter more in reserve.
    Keeping them waits for the device at every batch, so use it as an epoch metric. ``y_pred`` is
    what the network returns: a function of labels has to be wrapped in one that makes them.

    ``y_true`` may be a pair ``(targets, sample_weight)``.

    Args:
        funcs: The function or the functions.
        kwargs: Keyword arguments for the function, or a list of them with one dict per function.
        names: Names for the logs, one per function; the functions' own if omitted.

    Raises:
        InvalidTypeError: If something is given that cannot be called, such as a name.
        InvalidArgumentError: If the lists have different lengths; it is a ``ValueError``.

    Example:
        >>> def share(y_true, y_pred, sample_weight=None):
        ...     return (y_true == y_pred).mean()
        >>> metric = SKLearnMetrics(share)
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
        >>> float(metric.compute()["share"])
        0.5
    """

    def __init__(
        self,
        funcs: Callable[..., Any] | Sequence[Callable[..., Any]],
        kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        names: Names | None = None,
    ) -> None:
        super().__init__()
        self.funcs = _functions(funcs)
        if kwargs is None:
            kwargs = [{}] * len(self.funcs)
        self.kwargs = [kwargs] if isinstance(kwargs, Mapping) else list(kwargs)
        given = [func.__name__ for func in self.funcs] if names is None else names_as_list(names)
        self.__name__ = given
        for argument, values in (("kwargs", self.kwargs), ("names", given)):
            if len(values) != len(self.funcs):
                raise InvalidArgumentError(
                    f"SKLearnMetrics has {len(self.funcs)} functions and {len(values)} {argument}; "
                    "it needs one for each."
                )
        self.reset()

    def forward(self, y_pred: Any, y_true: Any) -> dict[str, Any]:
        """Keep the rows of a batch and return the values of that batch alone, by name."""
        batch = _as_arrays(y_pred, y_true)
        self._keep(*batch)
        return self._values(*batch)

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Keep the rows of a batch."""
        self._keep(*_as_arrays(y_pred, y_true))

    def compute(self) -> dict[str, Any]:
        """Return the values over all rows since the last reset, by name.

        Raises:
            StepError: If there are none; it is a ``RuntimeError``.
        """
        if not len(self._y_pred):
            raise StepError("SKLearnMetrics has seen no rows since it was made or reset.")
        weights = self._weights.all() if len(self._weights) else None
        return self._values(self._y_pred.all(), self._y_true.all(), weights)

    def reset(self) -> None:
        """Forget all rows."""
        self._y_pred, self._y_true, self._weights = ArrayRows(), ArrayRows(), ArrayRows()

    @property
    def rows(self) -> list[Tensor]:
        """Predictions, targets and, if there were any, weights; an empty list before a batch.

        Rows of several ranks are put together one after the other, and may be put back.
        """
        kept = [rows for rows in (self._y_pred, self._y_true, self._weights) if len(rows)]
        return [torch.from_numpy(rows.all()) for rows in kept]

    @rows.setter
    def rows(self, rows: Sequence[Tensor]) -> None:
        self.reset()
        if rows:
            y_pred, y_true, *weights = (_as_array(tensor) for tensor in rows)
            self._keep(y_pred, y_true, weights[0] if weights else None)

    def pass_state(self) -> dict[str, Any]:
        """Return what has been gathered since the last reset."""
        return {"rows": self.rows}

    def load_pass_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `pass_state` returned."""
        self.rows = state["rows"]

    def _keep(
        self, y_pred: NDArray[Any], y_true: NDArray[Any], weights: NDArray[Any] | None
    ) -> None:
        self._y_pred.append(y_pred)
        self._y_true.append(y_true)
        if weights is not None:
            self._weights.append(weights)

    def _values(
        self, y_pred: NDArray[Any], y_true: NDArray[Any], weights: NDArray[Any] | None
    ) -> dict[str, Any]:
        values = {}
        for name, func, kwargs in zip(self.__name__, self.funcs, self.kwargs, strict=True):
            try:
                values[name] = func(y_true, y_pred, sample_weight=weights, **kwargs)
            except Exception as error:
                error.add_note(
                    f'This happened in SKLearnMetrics, in "{name}": y_true {y_true.shape} '
                    f"{y_true.dtype}, y_pred {y_pred.shape} {y_pred.dtype}."
                )
                error.add_note(_remedy(error, getattr(func, "__name__", name), y_pred))
                raise
        return values


def _functions(funcs: Any) -> list[Callable[..., Any]]:
    alone = callable(funcs) or isinstance(funcs, str) or not hasattr(funcs, "__iter__")
    listed = [funcs] if alone else list(funcs)
    for func in listed:
        if not callable(func):
            what = f'"{func}"' if isinstance(func, str) else kind_of(func)
            raise InvalidTypeError(
                f"SKLearnMetrics got {what}; it takes functions, of sklearn.metrics or like them: "
                "SKLearnMetrics(sklearn.metrics.f1_score)."
            )
    return listed


def _remedy(error: Exception, name: str, y_pred: NDArray[Any]) -> str:
    if "sample_weight" in str(error):
        return f"It is called {name}(y_true, y_pred, sample_weight=None): let it take these."
    several = y_pred.ndim > 1 and y_pred.shape[1] > 1
    way = "y_pred.argmax(1)" if several else "y_pred > 0"
    more = "; one of a single score for two classes needs y_pred[:, 1]" if several else ""
    return (
        f"y_pred is what the network returns. If {name} is one of labels, wrap it, as in lambda "
        f"y_true, y_pred, **more: {name}(y_true, {way}, **more){more}."
    )


def _as_arrays(y_pred: Any, y_true: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    weights = None
    if isinstance(y_true, tuple | list):
        y_true, weights = y_true
        weights = _as_array(weights).reshape(-1)
    return _as_array(y_pred), _as_array(y_true), weights


def _as_array(value: Any) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach()
        # numpy has no bfloat16
        value = (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
    return np.asarray(value)
