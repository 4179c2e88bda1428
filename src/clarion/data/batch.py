"""What every loader's batches become before a step sees them."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Batch"]


@dataclass(slots=True)
class Batch:
    """One batch, unpacked: what the network is called with, and what it should return.

    A function given as ``unpack=`` returns one of these.

    Attributes:
        args: Positional arguments of the network.
        kwargs: Keyword arguments of the network.
        target: The ground truth, handed to the loss and the metrics; None when predicting.
        size: The number of examples; worked out from the arguments if left at None.
        share: The batch's part of the optimizer step; the shares of a step sum to 1. A tensor if
            it was counted on a device.
        opens_step: Whether gradients are cleared before this batch.
        closes_step: Whether the optimizer steps after this batch.
        weight: How much each example counts in the loss, shape (N,); by name, if there are several
            losses that count differently; None for all alike.
        lasts: Whether nobody fills the memory of its tensors anew, as some loaders do.
        mixed: What the loss judges in place of ``target``, as MixUp makes it; metrics see the
            target.
        is_filler: Whether nothing of the batch counts: it only keeps a rank for which there are no
            examples in step with the others.
        ran: What the network returned for it, if it was run before its step. If the loss stands
            with it (None for no loss), nobody will write into the memory of the prediction again.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    target: Any = None
    size: int | None = None
    share: float | Tensor = 1.0
    opens_step: bool = True
    closes_step: bool = True
    weight: Any = None
    mixed: Any = None
    lasts: bool = False
    is_filler: bool = False
    ran: tuple[Any, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is an optimizer step of its own, all examples counting alike."""
        whole = self.opens_step and self.closes_step
        alone = type(self.share) is float and self.share == 1.0
        return whole and alone and not self.kwargs and self.weight is None and self.mixed is None

    @property
    def ran_ahead(self) -> bool:
        """Whether its prediction and loss are known before its step."""
        return self.ran is not None and len(self.ran) == 2

    @property
    def inputs(self) -> Any:
        """What the network reads: its only argument, its arguments, or its keyword arguments."""
        if self.kwargs:
            return self.kwargs
        return self.args[0] if len(self.args) == 1 else self.args
