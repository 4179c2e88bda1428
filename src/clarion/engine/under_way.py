"""The training under way: what a checkpoint of it holds besides weights, counts and callbacks."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch

from clarion.data.feed import Feed
from clarion.engine.state import Progress
from clarion.metrics.collection import MetricSet

__all__ = ["UnderWay"]


class UnderWay:
    """Where a training is in its data, what it measured so far, and how far it is to go.

    Args:
        metrics: The metrics, whose sums over the pass under way are kept.
        progress: The counts of the training.

    Attributes:
        clock: When the epoch under way began.
        validations: The results of the validations of this call, and of the epoch in which it
            goes on.
        loaded: A state that the next training goes on from; None if it begins anew.
    """

    def __init__(self, metrics: MetricSet, progress: Progress) -> None:
        self._metrics = metrics
        self._progress = progress
        self._feed: Feed | None = None
        self._epochs = 0
        self.clock = 0.0
        self._settle: Callable[[], object] = _nothing
        self.loaded: Mapping[str, Any] | None = None
        self._resumed: Mapping[str, Any] | None = None
        self.validations: list[dict[str, Any]] = []

    def begin(self, feed: Feed, initial_epoch: int) -> None:
        """Begin a training: where the checkpoint was written that was just loaded, else anew.

        Args:
            feed: What gives its train batches.
            initial_epoch: The number of its first epoch.
        """
        progress = self._progress
        state, self.loaded, self._resumed = self.loaded, None, None
        self._feed, self.validations = feed, []
        if state is None or progress.epoch != initial_epoch - 1:
            if progress.epoch != initial_epoch - 1 or initial_epoch == 1:
                progress.epoch, progress.step = initial_epoch - 1, 0
                progress.skipped = progress.bad_rows = 0
            progress.batch = 0
            return
        is_over = progress.stopped or progress.epoch >= state["epochs"]
        self.validations = [dict(logs) for logs in state["validations"]]
        feed.load_state_dict(state["feed"], anew=is_over)
        self._resumed = state if progress.batch else None

    def plan(self, epochs: int, settle: Callable[[], object]) -> None:
        """Be told how the training goes.

        Args:
            epochs: The number of the last epoch.
            settle: What makes sure that every step so far is judged.
        """
        self._epochs = epochs
        self._settle = settle

    @property
    def seconds(self) -> float:
        """How long the epoch that begins now was under way before it was interrupted."""
        return 0.0 if self._resumed is None else float(self._resumed["seconds"])

    def restore_metrics(self, device: torch.device | None, rank: int = 0) -> None:
        """Put the sums back that the pass under way had when the checkpoint was written.

        Args:
            device: Where the model computes; None if nobody said.
            rank: The number of this process: the first one has the sums of all.
        """
        state, self._resumed = self._resumed, None
        if state is not None and rank == 0:
            self._metrics.load_state_dict(state["metrics"], device)

    @property
    def failed_at_edge(self) -> bool:
        """Whether the batch after those that are done could not be loaded: nothing else happened.

        Never so inside of accumulated steps, and at the beginning of an epoch.
        """
        done = self._progress.batch
        return done > 0 and self._feed is not None and self._feed.failed_after == done

    def state_dict(self) -> dict[str, Any]:
        """Return the state, to be asked for between two optimizer steps or two epochs."""
        self._settle()
        inside = self._progress.batch > 0
        return {
            "epochs": self._epochs,
            "validations": self._of_epoch() if inside else [],
            "feed": {} if self._feed is None else self._feed.state_dict(inside=inside),
            "metrics": self._metrics.state_dict() if inside else [],
            "seconds": perf_counter() - self.clock if inside else 0.0,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state; the next training goes on from it, if it begins at that epoch."""
        self.loaded = state

    def _of_epoch(self) -> list[dict[str, Any]]:
        """Return the results of the epoch under way, without what callbacks may have added."""
        epoch = self._progress.epoch + 1
        return [
            {key: value for key, value in one.items() if isinstance(value, int | float)}
            for one in self.validations
            if one["epoch"] == epoch
        ]


def _nothing() -> None:
    return None
