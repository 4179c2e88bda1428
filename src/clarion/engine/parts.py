"""What may take part in an optimizer step, and what it is told of the training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Again", "Plan", "UpdatePart"]

Again = Callable[[], Tensor]
"""Clears the gradients, makes those of the step anew at the present weights, returns the loss."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a training is meant to be.

    Attributes:
        epochs: The number of the last epoch; None if unknown.
        total_steps: Optimizer steps from the first epoch to the last; None if unknown.
        done_steps: Optimizer steps that are done already.
        batches_per_step: How many batches make an optimizer step.
        inside: Whether some steps of the first epoch are among those that are done.
    """

    epochs: int | None = None
    total_steps: int | None = None
    done_steps: int = 0
    batches_per_step: int = 1
    inside: bool = False


class UpdatePart:
    """Something that takes part in the update; override the moments that matter.

    Attributes:
        name: Its name among the parts of a checkpoint; empty for a part without a state.
        reevaluates: Whether it needs the gradients at other weights, and so keeps the batches of
            a step until the step is done.
        reads_gradients: Whether it looks at gradients, which then stand in ``Parameter.grad``.
    """

    name = ""
    reevaluates = False
    reads_gradients = False

    def begin(self, plan: Plan) -> None:
        """Prepare for a training, before its first hook."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for the train pass of an epoch."""

    def before_step(self, step: int, again: Again | None) -> None:
        """Act on the gradients, which are complete and true to scale.

        Args:
            step: How many optimizer steps are done.
            again: What makes the gradients anew; None unless a part asked with ``reevaluates``.
        """

    def after_step(self, step: int) -> None:
        """Act on the new weights; ``step`` counts this step too."""

    def end_epoch(self, epoch: int) -> None:
        """Act after the train pass of an epoch, before its validation."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
