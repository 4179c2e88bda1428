"""Keep gradients small."""

from collections.abc import Iterable

from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from clarion.callbacks.base import Callback

__all__ = ["ClipNorm", "ClipValue"]


class ClipNorm(Callback):
    """Scales the gradients down before each optimizer step if their norm is above a limit.

    The gradients are complete and normalised then: with ``batches_per_step > 1`` their norm is
    that of one large batch. Nothing is read on the host.

    Args:
        parameters: The parameters (or one) whose gradients count as one vector.
        max_norm: The limit of its norm.
        norm_type: Which norm: 2.0 the Euclidean, ``float("inf")`` the largest absolute value.
    """

    def __init__(
        self, parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0
    ) -> None:
        self.parameters = _as_list(parameters)
        self.max_norm = max_norm
        self.norm_type = norm_type

    def on_optimizer_step_begin(self, step: int) -> None:
        """Clip."""
        clip_grad_norm_(self.parameters, self.max_norm, norm_type=self.norm_type)


class ClipValue(Callback):
    """Limits each element of the gradients before each optimizer step.

    Args:
        parameters: The parameters (or one) whose gradients are clipped.
        clip_value: Elements are brought into ``[-clip_value, clip_value]``.
    """

    def __init__(self, parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
        self.parameters = _as_list(parameters)
        self.clip_value = clip_value

    def on_optimizer_step_begin(self, step: int) -> None:
        """Clip."""
        clip_grad_value_(self.parameters, self.clip_value)


def _as_list(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters as a list: ``network.parameters()`` can be walked only once."""
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)
