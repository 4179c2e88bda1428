"""Predictions and losses of networks that are chains of plain layers, without gradients."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from clarion.data.batch import Batch
from clarion.engine.chains import Chain, surroundings
from clarion.engine.gradients import is_same
from clarion.engine.judges import judge_of
from clarion.engine.kinds import MOST_KINDS, Kind, kind_of

__all__ = ["ChainedScores"]


class ChainedScores:
    """Does what a network and a loss of torch's own do, for kinds of batches seen before.

    Network and chain are compared on one batch of a kind, bit for bit; others like it are run by
    the kernels of the layers. What those return is nobody else's.

    Args:
        network: The network.
        judge: The loss as a function of prediction and target; None for no loss.
    """

    def __init__(self, network: nn.Module, judge: Callable[..., Any] | None = None) -> None:
        self._chain = Chain.of(network) if judge is None or judge_of(judge) else None
        self._judge = judge
        self._agrees: dict[Kind, bool] = {}
        self._surroundings = surroundings()

    def are_right(self) -> bool:
        """Tell whether nothing has changed since network and chain were found to agree."""
        if self._chain is None or True not in self._agrees.values():
            return False
        learns, *_ = here = surroundings()
        return not learns and here == self._surroundings and self._chain.is_current()

    def of(self, batch: Batch) -> tuple[Tensor, Tensor | None] | None:
        """Return prediction and loss of a batch; None if the network has to tell them.

        Args:
            batch: The batch; `are_right` has been asked.
        """
        kind, judge = self._kind_of(batch), self._judge
        if self._chain is None or kind is None or not self._agrees.get(kind):
            return None
        try:
            prediction = self._chain.run(batch.args[0])
            return prediction, None if judge is None else judge(prediction, batch.target)
        except Exception:  # the ordinary way tells what is wrong
            return None

    def compare(self, batch: Batch, prediction: Any) -> bool:
        """Compare the chain with the network, if batches like this one were not yet.

        Args:
            batch: The batch.
            prediction: What the network has returned for it.

        Returns:
            Whether it has just been found that the next ones can do without the network.
        """
        chain = self._chain
        if chain is None:
            return False
        kind = self._kind_of(batch)
        if kind is None or kind in self._agrees or len(self._agrees) == MOST_KINDS:
            return False
        if surroundings() != self._surroundings:
            return False
        x = batch.args[0]
        try:
            alike = chain.is_worth(x) and chain.is_current() and is_same(chain.run(x), prediction)
        except Exception:  # such as inputs of another number of columns
            alike = False
        self._agrees[kind] = alike
        return alike

    def _kind_of(self, batch: Batch) -> Kind | None:
        if len(batch.args) != 1:
            return None
        return kind_of(batch.args[0], None if self._judge is None else batch.target)
