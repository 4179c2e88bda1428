"""Keep gradients small."""

import warnings
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from clarion.callbacks.base import Callback
from clarion.errors import InvalidArgumentError, InvalidTypeError, kind_of

__all__ = ["ClipNorm", "ClipValue"]


class ClipNorm(Callback):
    """Scales the gradients down before each optimizer step if their norm is above a limit.

    The gradients are complete and normalised then: with ``batches_per_step > 1`` their norm is
    that of one large batch. Nothing is read on the host.

    Args:
        parameters: The parameters (or one) whose gradients count as one vector.
        max_norm: The limit of its norm.
        norm_type: Which norm: 2.0 the Euclidean, ``float("inf")`` the largest absolute value.

    Raises:
        InvalidArgumentError: If ``max_norm`` is no number of at least 0.
        InvalidTypeError: If ``parameters`` holds anything else than tensors.
    """

    def __init__(
        self, parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0
    ) -> None:
        _check_limit("ClipNorm", "max_norm", max_norm)
        self.parameters = _as_list("ClipNorm", parameters)
        self.max_norm = max_norm
        self.norm_type = norm_type

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Warn if the optimizer trains none of the parameters."""
        _warn_of_idle(self)

    def on_optimizer_step_begin(self, step: int) -> None:
        """Clip."""
        clip_grad_norm_(self.parameters, self.max_norm, norm_type=self.norm_type)


class ClipValue(Callback):
    """Limits each element of the gradients before each optimizer step.

    Args:
        parameters: The parameters (or one) whose gradients are clipped.
        clip_value: Elements are brought into ``[-clip_value, clip_value]``.

    Raises:
        InvalidArgumentError: If ``clip_value`` is no number of at least 0.
        InvalidTypeError: If ``parameters`` holds anything else than tensors.
    """

    def __init__(self, parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
        _check_limit("ClipValue", "clip_value", clip_value)
        self.parameters = _as_list("ClipValue", parameters)
        self.clip_value = clip_value

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Warn if the optimizer trains none of the parameters."""
        _warn_of_idle(self)

    def on_optimizer_step_begin(self, step: int) -> None:
        """Clip."""
        known = [parameter for parameter in self.parameters if parameter.grad is not None]
        if known:  # torch fails where there is no gradient at all
            clip_grad_value_(known, self.clip_value)


def _as_list(owner: str, parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters as a list: ``network.parameters()`` can be walked only once."""
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for one in listed:
        if not isinstance(one, Tensor):
            raise InvalidTypeError(
                f"{owner}: parameters holds {kind_of(one)}; it takes tensors, such as "
                "network.parameters()."
            )
    return listed


def _check_limit(owner: str, name: str, limit: Any) -> None:
    # torch takes a negative norm, and turns all gradients around.
    if not isinstance(limit, Real | Tensor) or not float(limit) >= 0:
        raise InvalidArgumentError(
            f"{owner}({name}={limit!r}): the limit is a number of at least 0."
        )


def _warn_of_idle(callback: ClipNorm | ClipValue) -> None:
    groups = getattr(getattr(callback.model, "optimizer", None), "param_groups", None)
    if not isinstance(groups, list):
        return
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    if not any(id(parameter) in trained for parameter in callback.parameters):
        warnings.warn(
            f"{type(callback).__name__} clips nothing: the optimizer trains none of the "
            f"{len(callback.parameters)} parameters that it was given. Give it those of the "
            "network that the model holds: network.parameters().",
            stacklevel=3,
        )
