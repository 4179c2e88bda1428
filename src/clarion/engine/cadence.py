"""When a training validates inside an epoch."""

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from clarion.arguments import check_whole_number
from clarion.data.batch import Batch
from clarion.distributed.single import Single
from clarion.distributed.strategy import Strategy
from clarion.engine.durations import seconds_of
from clarion.engine.state import Progress
from clarion.errors import InvalidArgumentError

__all__ = ["Cadence", "make_cadence"]

_Due = Callable[[int, Progress], bool]


class Cadence:
    """Lets something happen between the batches of a train pass, at its optimizer steps.

    Nothing happens after the last batch of a pass, where the epoch ends and is validated anyway.

    Args:
        due: Tells from the optimizer steps done in this pass, and the progress, whether it is
            time; asked once per optimizer step. None for never.
    """

    def __init__(self, due: _Due | None = None) -> None:
        self._due = due

    def among(
        self, batches: Iterable[Batch], progress: Progress, act: Callable[[], Any], steps: int = 0
    ) -> Iterable[Batch]:
        """Return the batches; ``act`` is called when it is time, between two of them.

        Args:
            batches: The batches of a pass, which are asked for once each.
            progress: The counts of the training.
            act: What is to happen.
            steps: Optimizer steps of the pass that were done before: what was due after the last
                of them has not happened.
        """
        return batches if self._due is None else self._interrupted(batches, progress, act, steps)

    def _interrupted(
        self, batches: Iterable[Batch], progress: Progress, act: Callable[[], Any], steps: int
    ) -> Iterator[Batch]:
        assert self._due is not None
        iterator = iter(batches)
        batch = next(iterator, None)
        if steps and batch is not None and self._due(steps, progress):
            act()
        while batch is not None:
            closes = batch.closes_step  # asked before the step, which may keep the batch
            yield batch
            # Whoever asks for the next batch is through with this one, hooks included.
            steps += closes
            is_due = closes and self._due(steps, progress)
            batch = next(iterator, None)
            if is_due and batch is not None:
                act()


def make_cadence(
    every: Any, steps_per_epoch: int | None, strategy: Strategy | None = None
) -> Cadence:
    """Return the cadence that ``validate_every`` stands for.

    Args:
        every: A number of optimizer steps; a share of an epoch, above 0 and at most 1; a span of
            time such as ``"10min"``; or None for the ends of the epochs alone.
        steps_per_epoch: Optimizer steps in an epoch; None if unknown.
        strategy: How ranks share the work; their clocks have to agree.

    Raises:
        InvalidArgumentError: If it is nothing of these, or a share of an unknown number.
    """
    if every is None:
        return Cadence()
    if isinstance(every, str):
        return Cadence(_Timer(seconds_of("validate_every", every), strategy or Single()))
    if isinstance(every, float):
        return Cadence(_at_shares(every, steps_per_epoch))
    check_whole_number("validate_every", every, 1)
    return Cadence(lambda steps, progress: progress.step % every == 0)


class _Timer:
    def __init__(self, seconds: float, strategy: Strategy) -> None:
        self._seconds = seconds
        self._strategy = strategy
        self._last = monotonic()

    def __call__(self, steps: int, progress: Progress) -> bool:
        now, strategy = monotonic(), self._strategy
        if progress.step % strategy.asks_every:
            return False
        if not strategy.agree(now - self._last >= self._seconds):
            return False
        self._last = now
        return True


def _at_shares(share: float, steps_per_epoch: int | None) -> _Due:
    if not 0 < share <= 1:
        raise InvalidArgumentError(
            f"validate_every={share} is a share of an epoch, which is above 0 and at most 1. Pass "
            f'a whole number for optimizer steps, or text such as "10min" for a time.'
        )
    if steps_per_epoch is None:
        raise InvalidArgumentError(
            f"validate_every={share} is a share of an epoch, and the train data does not tell how "
            "long one is. Pass steps_per_epoch, or a whole number of optimizer steps."
        )
    times = int(1 / share + 1e-9)
    moments = {max(1, round(i * share * steps_per_epoch)) for i in range(1, times + 1)}
    return lambda steps, progress: steps in moments
