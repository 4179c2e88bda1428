"""Parameters that do not learn until a given epoch."""

from collections.abc import Mapping

from torch.nn import Parameter

from clarion.engine.parts import UpdatePart

__all__ = ["Freeze"]


class Freeze(UpdatePart):
    """Switches ``requires_grad`` of parameters off, and on again from an epoch on.

    The parameters stay in the optimizer, which passes over those without a gradient: neither
    weight decay nor momentum moves them. Whether a parameter learns depends on the epoch alone,
    so a resumed training is right by itself. Batch statistics of frozen layers go on.

    Args:
        until: For each parameter the first epoch in which it learns; None for never.
    """

    def __init__(self, until: Mapping[Parameter, int | None]) -> None:
        self._until = dict(until)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Freeze what does not learn in this epoch, and let the rest learn."""
        for parameter, first in self._until.items():
            learns = first is not None and epoch >= first
            parameter.requires_grad_(learns)
            if not learns:
                parameter.grad = None
